"""Which places the values of a program share: those of a value that is no longer needed go to later ones, so that all
of them stay in the processor's nearest cache."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence


def reused_rooms(
    rooms: Sequence[tuple[int, int]], touched: Sequence[Sequence[int]], keep: int, last: int
) -> tuple[Callable[[int], int], int]:
    """Where each place goes, and how much room there must be.

    Args:
        rooms: by value, its place and its size; the places rise.
        touched: by instruction, the places that it writes and reads.
        keep: how many of the first values stay where they are: the inputs, which come from outside.
        last: a place of the value that is the result.
    """
    places = [place for place, _ in rooms]

    def room_of(place: int) -> int:
        return bisect_right(places, place) - 1

    needed = dict.fromkeys(range(keep), 0)
    for at, touches in enumerate(touched):
        needed |= dict.fromkeys(map(room_of, touches), at)
    needed[room_of(last)] = len(touched)
    moved, top = dict(enumerate(places[:keep])), sum(size for _, size in rooms[:keep])
    free: list[tuple[int, int]] = []
    live = set(range(keep))
    for at, touches in enumerate(touched):
        for value in dict.fromkeys(map(room_of, touches)):
            if value in moved:
                continue
            size = rooms[value][1]
            if fits := [room for room in free if room[1] >= size]:
                place, room = min(fits, key=lambda room: room[1])
                free.remove((place, room))
                if room > size:
                    free.append((place + size, room - size))
            else:
                place, top = top, top + size
            moved[value] = place
            live.add(value)
        for value in [value for value in live if needed[value] == at]:
            live.remove(value)
            free.append((moved[value], rooms[value][1]))
    return lambda place: moved[room_of(place)] + place - places[room_of(place)], top
