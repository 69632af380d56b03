-- purpose: the hash of a record, however many fields it has
-- defines: store_hash
-- include: lib/commands.lua

-- Stores the fields of a save and the mark. Nothing of it can fail: the types were checked.
local function store_hash(op, key, mark)
  -- `unpack` stops near 8,000 values.
  local most, last = 4000, op.at + op.sets - 1
  redis.call('HSET', key, '$', mark, unpack(ARGV, op.at, math.min(last, op.at + most - 1)))
  for first = op.at + most, last, most do
    redis.call('HSET', key, unpack(ARGV, first, math.min(first + most - 1, last)))
  end
end
