-- purpose: store a record and move it to the entries its values imply, or change nothing
-- keys: the record, the keys beside it, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: values at op.at: op.sets hash arguments, op.drops names, the packed entries, the expected values, list items
-- reply: ok version value (ok alone where there is neither) | unique slot tail owner | exists key row | gone | stale
--        moved row | foreign | declined value field

local later = {}
-- include: lib/entries.lua
-- include: lib/inline.lua
-- later: lib/change.lua lib/afterwards.lua lib/obstacles.lua lib/claims.lua lib/expected.lua lib/built.lua
-- later: lib/clock.lua lib/hash.lua lib/manifest.lua lib/moves.lua lib/registering.lua lib/beside.lua lib/expiry.lua lib/increment.lua lib/stream.lua

-- Most saves are of a new record, under a key of which nothing is left: that is all here, less what few models need.
operations.save = function(call, op, model)
  local key, text = op.key, ARGV[op.at + op.sets]
  if op.touched or redis.call('EXISTS', key) == 1 or not (bare[model.class] or later.is_unknown(model, key)) then
    return later.change(call, op, model)
  end
  -- Up to 15 items follow their list's first byte: taken one by one, they are put into a table made for so many.
  local entries = text:byte() < 160 and {select(2, cmsgpack.unpack_limit(text, 15, 1))} or cmsgpack.unpack(text)
  local refused = op.relies and later.found_elsewhere(op, model, entries) or
    (model.kinds or model.events) and later.obstacle(op, model, entries, key)
  if refused then
    return refused
  end
  local deadline = op.deadline or (op.ttl and later.deadline_in(call, op.ttl))
  if model.unregistered then
    later.register_slots(model)
  end
  add_record(model, entries, key)
  local mark = text
  if deadline or #text > MANIFEST_INLINE then
    mark = later.store_manifest(model, key, {}, text, deadline)
  end
  if deadline then
    later.set_deadline(model, key, deadline)
  end
  if op.sets < 4000 then
    redis.call('HSET', key, '$', mark, unpack(ARGV, op.at, op.at + op.sets - 1))
  else
    later.store_hash(op, key, mark)
  end
  return (deadline or model.versioned or model.beside or model.events) and
    later.afterwards(call, op, model, key, deadline)
end
