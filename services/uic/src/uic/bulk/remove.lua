-- Remove keys of one partition, only while the removal that asks for it keeps the workers out.
--   KEYS[1] the partition's progress record, KEYS[2..] what goes, KEYS[1] itself or others
--   ARGV[1] the removal's mark
-- Returns how many keys went, or -1 if something else is stored in place of the mark.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
return redis.call('UNLINK', unpack(KEYS, 2))
