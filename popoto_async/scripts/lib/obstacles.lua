-- purpose: what keeps a record from being stored
-- defines: is_unknown, found_elsewhere, obstacle
-- include: lib/writes.lua

-- Whether nothing is left of an earlier record of this key: no manifest, and no references that it would take over.
local function is_unknown(model, key)
  return run('HEXISTS', model.man, key) == 0 and run('HEXISTS', model.alias, key) == 0
end

-- The outcome where another record has the claim that this one is looked up by.
local function found_elsewhere(op, model, entries)
  local missing = later.not_built(op.relies)
  if missing then
    return missing
  end
  local found = op.found and later.found_owner(model, entries, op.found)
  return found and {'unique', op.found, '', found, later.row_of(model, found)}
end

-- The outcome where a record can't come to these entries (nil: it stays where it is) under a key, from another one where
-- that is given. Fails where something foreign stands in a key beside the record.
local function obstacle(op, model, entries, key)
  local from = op.from or key
  if entries and model.kinds then
    local slot, tail, owner = later.claim_conflict(model, entries, key, from, not op.touched)
    if slot then
      return {'unique', slot, tail, owner, false}
    end
  end
  local unheard = model.events and later.stream.refusal(model)
  if unheard then
    return unheard
  end
  if model.beside and (not op.touched or from ~= key or op.lists) then
    later.require_besides(model, from)
    later.require_besides(model, key)
  end
end
