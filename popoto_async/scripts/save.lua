-- purpose: store a record and move it to the entries its values imply, or change nothing
-- keys: the record, the keys beside it, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: values at op.at: op.sets hash arguments, op.drops names, the packed entries, the expected values, list items
-- reply: ok version value (ok alone where there is neither) | unique slot tail owner | exists key row | gone | stale
--        moved row | foreign | declined value field

local later = {}
-- include: lib/done.lua
-- include: lib/entries.lua
-- include: lib/manifest.lua
-- later: lib/moves.lua lib/claims.lua lib/expected.lua lib/built.lua lib/registering.lua
-- later: lib/beside.lua lib/expiry.lua lib/increment.lua lib/stream.lua

-- `unpack` stops near 8,000 values.
local HASH_ARGUMENTS = 4000

-- The record as it stands under the key it had, what stands under the key it comes to, and the version; or the outcome
-- that refuses the save.
local function examine(op, model, key, from)
  local inserting = not op.touched
  local old, foreign = read_manifest(model, from, inserting)
  local target = old
  if not foreign and from ~= key then
    target, foreign = read_manifest(model, key)
  end
  if foreign then
    return foreign
  end
  if not inserting and not old.mark then
    return {'gone'}
  end
  local missing = op.relies and later.not_built(op.relies)
  if missing then
    return missing
  end
  local found = op.found and later.found_owner(model, cmsgpack.unpack(ARGV[op.at + op.sets]), op.found)
  if found then
    return {'unique', op.found, '', found, later.row_of(model, found)}
  end
  if (inserting or from ~= key) and target.mark and op.if_exists then
    return {'exists', key, op.if_exists == 'return' and not op.found and later.row_of(model, key)}
  end
  local version = model.versioned and redis.call('HGET', from, '$v')
  if op.version and version ~= op.version then
    return {'stale', version}
  end
  if op.expect and later.has_moved(op, from, op.at + op.sets + (op.drops or 0)) then
    return {'moved', later.row_of(model, from)}
  end
  return nil, old, target, version
end

-- The entries before and after the save and the manifest of the latter; `after` is nil where a partial save touches
-- none and the key stays. The fourth result is the sum of an increment, the fifth the outcome that declines it.
local function entries_of(op, old, from, known)
  local packed = ARGV[op.at + op.sets + (op.drops or 0)]
  if not op.touched then
    local before = known and listed_entries(old.text)
    return before, packed == old.text and before or listed_entries(packed), packed
  end
  local value
  if op.add then
    value = later.incremented(op, from)
    if not value then
      return nil, nil, nil, nil, {'declined', redis.call('HGET', from, op.add.field), op.add.field}
    end
  end
  local before = listed_entries(old.text)
  if #op.touched == 0 then
    return before, from ~= op.key and before or nil, old.text, value
  end
  local fresh = listed_entries(packed)
  local after = later.merge_entries(before, value and later.computed_entries(op, fresh, value) or fresh, op.touched)
  return before, after, cmsgpack.pack(after), value
end

-- Writes the fields. Nothing of it can fail: the types were checked.
local function store_fields(op, key, from, old, mark)
  local last = op.at + op.sets - 1
  if from ~= key then
    redis.call('RENAME', from, key)
  elseif not op.touched and old.mark then
    redis.call('DEL', key)
  end
  if op.drops then
    redis.call('HDEL', key, unpack(ARGV, last + 1, last + op.drops))
  end
  if op.sets > 0 then
    redis.call('HSET', key, '$', mark, unpack(ARGV, op.at, math.min(last, op.at + HASH_ARGUMENTS - 1)))
  elseif mark ~= old.mark or not op.touched then
    redis.call('HSET', key, '$', mark)
  end
  for first = op.at + HASH_ARGUMENTS, last, HASH_ARGUMENTS do
    redis.call('HSET', key, unpack(ARGV, first, math.min(first + HASH_ARGUMENTS - 1, last)))
  end
end

operations.save = function(call, op, model)
  local key, from = op.key, op.from or op.key
  local inserting = not op.touched
  if inserting and not bare[model.class] and run('HEXISTS', model.alias, key) == 1 then
    -- Others refer to a record that had this key: before a new one takes it, they are told where that is.
    return operations.save_referred(call, op, model)
  end
  local refused, old, target, version = examine(op, model, key, from)
  if refused then
    return refused
  end
  local known = old.mark or old.companion
  local before, after, text, value, declined = entries_of(op, old, from, known)
  if declined then
    return declined
  end
  if after and model.kinds then
    local slot, tail, owner = later.claim_conflict(model, after, key, from, inserting)
    if slot then
      return {'unique', slot, tail, owner, false}
    end
  end
  local unheard = model.events and later.stream.refusal(model)
  if unheard then
    return unheard
  end

  local expires = known and run('ZSCORE', model.exp, from)
  if model.beside and (inserting or from ~= key or op.lists) then
    later.require_besides(model, from)
    later.require_besides(model, key)
  end
  local deadline = op.deadline or (op.ttl and string.format('%.0f', call.now + op.ttl)) or
    (not inserting and not op.persist and expires) or nil
  if model.unregistered then
    later.register_slots(model)
  end
  if target ~= old and (target.mark or target.companion) then
    later.remove_record(model, key, target)
    target = {}
  end
  if not known then
    add_record(model, after, key)
  else
    if after then
      later.move_entries(model, before, from, after, key)
    end
    if from ~= key then
      write({'ZADD', model.class, '0', from}, 'ZREM', model.class, from)
      later.forget_manifest(model, from, old)
      later.forget_deadline(model, from)
    end
    if not old.mark or from ~= key then
      write({'ZREM', model.class, key}, 'ZADD', model.class, '0', key)
    end
  end
  if deadline then
    later.set_deadline(model, key, deadline)
  elseif expires and from == key then
    later.forget_deadline(model, key)
  end
  store_fields(op, key, from, old, store_manifest(model, key, target, text, deadline))
  if value then
    redis.call('HSET', key, op.add.field, value)
  end
  if model.beside then
    later.store_besides(op, model, key, from)
  end
  if model.versioned then
    -- Never a version that an earlier record under this key had, so it starts at the clock.
    version = string.format('%.0f', version and tonumber(version) + 1 or call.micros)
    redis.call('HSET', key, '$v', version)
  end
  if deadline then
    later.end_record(call, model, key, deadline)
  elseif expires then
    later.keep_record(model, key)
  end
  if model.events then
    later.stream.saved(call, model, op, version, value)
  end
  return (version or value) and {'ok', version or false, value or false} or DONE
end
