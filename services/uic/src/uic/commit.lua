-- One partition's commit: if the stored progress record is the expected one, write states, then progress.
--   KEYS[1] progress, KEYS[2] values that were set aside, KEYS[3..] states; all in one slot by their hash tag
--   ARGV[1] expected record ('' = must be absent), ARGV[2] new record, ARGV[3..] state values ('' = delete)
-- A state that is deleted is an erased user's: what was set aside may hold copies of it, whose owner nobody can read any
-- more, so all of that goes with it.
-- Returns 1 when written, else the stored record ('' = absent).
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then
  return stored
end
for i = 3, #KEYS do
  local value = ARGV[i]
  if value == '' then
    redis.call('DEL', KEYS[i], KEYS[2])
  else
    redis.call('SET', KEYS[i], value)
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
