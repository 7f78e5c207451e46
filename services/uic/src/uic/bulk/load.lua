-- Some states of a load in bulk: written only while the partition has no progress record and the load holds the claim, so
-- it can neither meet a worker that folds nor another load.
--   KEYS[1] progress, KEYS[2] claim, KEYS[3] the set of users of this load, KEYS[4..] states; all in one slot
--   ARGV[1] the claim, ARGV[2] length of a state's key before the user id
--   ARGV[3..] state values ('' = none: the user had a state and lost it)
-- Returns 1 when written, 0 if there is a progress record, -1 if another load holds the claim, or none.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return -1
end
local users = {}
for i = 4, #KEYS do
  users[i - 3] = string.sub(KEYS[i], ARGV[2] + 1)
  if ARGV[i - 1] ~= '' then
    redis.call('SET', KEYS[i], ARGV[i - 1])
  end
end
redis.call('SADD', KEYS[3], unpack(users))
return 1
