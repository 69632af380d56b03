-- purpose: give a record a deadline, or take it away
-- keys: the record, the keys beside it, $Man, $Exp
-- args: op.key; op.ttl (ms from now) or op.deadline (ms of 1970); neither: the record stays
-- reply: ok deadline | gone | foreign key type
-- include: lib/clock.lua
-- include: lib/expiry.lua

operations.expire = function(call, op, model)
  local old, foreign = read_manifest(model, op.key)
  if foreign then
    return foreign
  end
  if not old.mark then
    return {'gone'}
  end
  local deadline = op.deadline or (op.ttl and deadline_in(call, op.ttl))
  if not deadline then
    if forget_deadline(model, op.key) then
      redis.call('HSET', op.key, '$', store_manifest(model, op.key, old, old.text, false))
      keep_record(model, op.key)
    end
    return {'ok', false}
  end
  set_deadline(model, op.key, deadline)
  if store_manifest(model, op.key, old, old.text, true) ~= old.mark then
    redis.call('HSET', op.key, '$', '')
  end
  end_record(call, model, op.key, deadline)
  return {'ok', deadline}
end
