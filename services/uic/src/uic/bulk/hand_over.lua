-- The end of a load in bulk, in one step: its users become the partition's users, and the progress record is written, so
-- that a worker goes on from there.
--   KEYS[1] progress, KEYS[2] claim, KEYS[3] the set of users of this load, KEYS[4] the set of users with a state
--   ARGV[1] the claim, ARGV[2] the progress record, ARGV[3] how many users the load has
-- Returns 1 when written, 0 if there is a progress record, -1 if another load holds the claim, or none, -2 if the store
-- has lost some of what was loaded.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return -1
end
if redis.call('SCARD', KEYS[3]) ~= tonumber(ARGV[3]) then
  return -2
end
redis.call('UNLINK', KEYS[4])
if tonumber(ARGV[3]) > 0 then
  redis.call('RENAME', KEYS[3], KEYS[4])
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
return 1
