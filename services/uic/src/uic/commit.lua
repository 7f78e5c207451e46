-- One partition's commit: if the stored progress record is the expected one, write states, then progress.
--   KEYS[1] progress, KEYS[2] values that were set aside, KEYS[3] the set of users with a state, KEYS[4..] states;
--   all in one slot by their hash tag
--   ARGV[1] expected record ('' = must be absent), ARGV[2] new record
--   ARGV[3] how many states, the first ones, are of users who had none; ARGV[4] how many of the next ones are of users
--   who may not be in the set yet; ARGV[5] length of a state's key before the user id; ARGV[6] '1' = empty the set
--   ARGV[7..] state values ('' = delete)
-- A state that is deleted is an erased user's: what was set aside may hold copies of it that can no longer be told
-- apart, so all of that goes with it.
-- Returns 1 when written; the stored record ('' = absent) if it is another one; or, when users who should have had no
-- state are in the set, which means that their states were lost, their places among the first ones, counted from 0.
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then
  return stored
end
local created, listed, users = tonumber(ARGV[3] or 0), tonumber(ARGV[3] or 0) + tonumber(ARGV[4] or 0), {}
for i = 1, listed do
  users[i] = string.sub(KEYS[3 + i], ARGV[5] + 1)
end
if created > 0 then
  local lost = {}
  for i, known in ipairs(redis.call('SMISMEMBER', KEYS[3], unpack(users, 1, created))) do
    if known == 1 then
      lost[#lost + 1] = i - 1
    end
  end
  if #lost > 0 then
    return lost
  end
end
if ARGV[6] == '1' then
  redis.call('UNLINK', KEYS[3])
end
if listed > 0 then
  redis.call('SADD', KEYS[3], unpack(users))
end
for i = 4, #KEYS do
  local value = ARGV[3 + i]
  if value == '' then
    redis.call('DEL', KEYS[i], KEYS[2])
    redis.call('SREM', KEYS[3], string.sub(KEYS[i], ARGV[5] + 1))
  else
    redis.call('SET', KEYS[i], value)
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
