-- purpose: remove a record with everything that is its own
-- keys: the record, the keys beside it, the index keys its manifest names, $Class, $Man, $Exp
-- args: op.key
-- reply: ok 1 or 0 (whether it existed) | foreign key type
-- include: lib/expiry.lua
-- include: lib/streams.lua

operations.delete = function(call, op, model)
  local old, foreign = read_manifest(model, op.key)
  if foreign then
    return foreign
  end
  if not old.mark and not old.companion then
    return {'ok', 0}
  end
  local stream = old.mark and streams(model)
  local unheard = stream and stream.refusal(model)
  if unheard then
    return unheard
  end
  require_besides(model, op.key)
  remove_record(model, op.key, old)
  if stream then
    stream.deleted(call, model, op.key)
  end
  redis.call('DEL', op.key)
  each_beside(model, op.key, 'DEL')
  return {'ok', old.mark and 1 or 0}
end
