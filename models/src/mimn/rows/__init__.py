"""What is compiled for the processor when the package is installed: the step graph, with the same bits, what a head is
given of candidates, and the head. Each has another form, which runs elsewhere, and is compared with it when a bundle is
opened.

onnxruntime pays for each operation of a graph, however few rows it has: 25 to 30 us for a run of one row, of which the
arithmetic is 2. And a user's events are folded one after another, so most runs are narrow. A step graph treats its
rows separately, so it is also a program on one user's row (`program`), which a small C library (`kernel`) runs: for
eight users at once (lanes.c), or for one (rows.c). The graph defines the step: the library's bits are compared with it
whenever a bundle is opened, and where they differ, or cannot be had, the graph runs.

A head graph is a program, too (`head_program`): on one user and many candidates, a vector of candidates at a time.

onnx_file  the graph    program  its instructions    kernel, rows.h, rows.c, lanes.c  what runs them
records, records.c  keys and events    states, states.c  digests, counters, ledgers
stored, stored.c  what is stored of states    live  all of these, for a service
candidates, lookups.c  vectors, cells and reads of candidates    candidate_list, candidate_list.c  ids from JSON
head_program, head_values, head_code, head_kernel, head.c  the head    rooms  places that values share
library  the extension that models/setup.py builds of them    arrays  as C gets them
"""
