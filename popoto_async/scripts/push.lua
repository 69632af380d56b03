-- purpose: put a value before the others of a capped list, which stands beside its record
-- keys: the record, the list, $Exp, $Slots
-- args: op.key, op.slot, op.field, op.cap; the value at op.at
-- reply: ok length | gone | declined text (the field is stored in the record) | foreign key type
-- include: lib/beside.lua
-- include: lib/manifest.lua
-- include: lib/registering.lua

operations.push = function(_, op, model)
  local record, foreign = read_manifest(model, op.key)
  if foreign then
    return foreign
  elseif not record.mark then
    return {'gone'}
  end
  local list = beside_key(model, op.slot, op.key)
  local length = run('LLEN', list)
  local earlier = length == 0 and redis.call('HGET', op.key, op.field)
  if earlier then
    return {'declined', earlier}
  end
  local deadline = length == 0 and run('ZSCORE', model.exp, op.key)
  if model.unregistered then
    register_slots(model)
  end
  run('LPUSH', list, ARGV[op.at])
  if deadline then
    redis.call('PEXPIREAT', list, deadline)
  end
  if length >= op.cap then
    redis.call('LTRIM', list, 0, op.cap - 1)
  end
  return {'ok', math.min(length + 1, op.cap)}
end
