-- Replace a record if it is the expected one: the only way in which the rollout record and what a namespace says of itself change.
--   KEYS[1] the record
--   ARGV[1] expected record ('' = must be absent), ARGV[2] new record
-- Returns 1 when written, else the stored record ('' = absent).
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then
  return stored
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
