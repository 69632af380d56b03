-- purpose: change what the slot table says of indexes, if it is still as it was read
-- keys: $Slots
-- args: at op.at: the slot table as it was read, as it is to be
-- reply: ok | slots

operations.mark = function(_, op, model)
  local known = redis.call('GET', model.slots) or ''
  if known ~= ARGV[op.at] then
    return {'slots', known}
  end
  redis.call('SET', model.slots, ARGV[op.at + 1])
  return {'ok'}
end
