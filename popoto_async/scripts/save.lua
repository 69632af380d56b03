-- purpose: store a record and move it to the entries its values imply, or change nothing
-- keys: the record, the keys beside it, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: values at op.at: op.sets hash arguments, op.drops names, the packed entries, the expected values, list items
-- reply: ok version value | unique slot tail owner | exists key row | gone | stale | moved row | foreign | declined value field
-- include: lib/entries.lua
-- include: lib/manifest.lua
-- include: lib/slots.lua
-- include: lib/streams.lua
-- later: lib/moves.lua lib/expected.lua lib/beside.lua lib/expiry.lua

-- `unpack` stops near 8,000 values.
local HASH_ARGUMENTS = 4000

-- The next version: never one that an earlier record under this key had, so it starts at the clock.
local function next_version(call, stored)
  return string.format('%.0f', stored and tonumber(stored) + 1 or call.micros)
end

-- What only an increment needs.
local function arithmetic()
  -- include: lib/increment.lua
  return incremented, computed_entries
end

-- The record as it stands under the key it had (`old`), and what stands under the key it comes to (`target`); or the
-- outcome that refuses the save.
local function examine(op, model, key, from)
  local inserting = not op.touched
  local old, foreign = read_manifest(model, from, inserting)
  local target = old
  if not foreign and from ~= key then
    target, foreign = read_manifest(model, key)
  end
  if foreign then
    return nil, foreign
  end
  if not inserting and not old.mark then
    return nil, {'gone'}
  end
  local missing = op.relies and not_built(op.relies)
  if missing then
    return nil, missing
  end
  local found = op.found and later.found_owner(model, cmsgpack.unpack(ARGV[op.at + op.sets]), op.found)
  if found then
    return nil, {'unique', op.found, '', found, later.row_of(model, found)}
  end
  if (inserting or from ~= key) and target.mark and op.if_exists then
    return nil, {'exists', key, op.if_exists == 'return' and not op.found and later.row_of(model, key)}
  end
  local version = model.versioned and redis.call('HGET', from, '$v')
  if op.version and version ~= op.version then
    return nil, {'stale', version}
  end
  if op.expect and later.has_moved(op, from, op.at + op.sets + (op.drops or 0)) then
    return nil, {'moved', later.row_of(model, from)}
  end
  return {old = old, target = target, version = version, known = old.mark or old.companion}
end

-- The entries before and after the save and the manifest of the latter; `after` is nil where a partial save touches
-- none and the key stays. The fourth result is the sum of an increment, the fifth the outcome that declines it.
local function entries_of(op, old, from)
  local packed = ARGV[op.at + op.sets + (op.drops or 0)]
  if not op.touched then
    local before = old.text == EMPTY and {} or cmsgpack.unpack(old.text)
    return before, packed == old.text and before or cmsgpack.unpack(packed), packed
  end
  local value, computed
  if op.add then
    local incremented, computed_entries = arithmetic()
    value, computed = incremented(op, from), computed_entries
    if not value then
      return nil, nil, nil, nil, {'declined', redis.call('HGET', from, op.add.field), op.add.field}
    end
  end
  local before = cmsgpack.unpack(old.text)
  if #op.touched == 0 then
    return before, from ~= op.key and before or nil, old.text, value
  end
  local fresh = cmsgpack.unpack(packed)
  local after = later.merge_entries(before, computed and computed(op, fresh, value) or fresh, op.touched)
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
  local record, refusal = examine(op, model, key, from)
  if refusal then
    return refusal
  end
  local before, after, text, value, declined = entries_of(op, record.old, from)
  if declined then
    return declined
  end
  if after then
    local slot, tail, owner = claim_conflict(model, after, key, from, inserting)
    if slot then
      return {'unique', slot, tail, owner, false}
    end
  end

  local stream = streams(model)
  local unheard = stream and stream.refusal(model)
  if unheard then
    return unheard
  end

  local old, target = record.old, record.target
  local expires = record.known and run('ZSCORE', model.exp, from)
  if model.beside and (inserting or from ~= key or op.lists) then
    later.require_besides(model, from)
    later.require_besides(model, key)
  end
  local deadline = op.deadline or (op.ttl and string.format('%.0f', call.now + op.ttl)) or
    (not inserting and not op.persist and expires) or nil
  if model.unregistered then
    register_slots(model)
  end
  if target ~= old and (target.mark or target.companion) then
    later.remove_record(model, key, target)
    target = {}
  end
  if after then
    if #before == 0 then
      add_entries(model, after, key)
    else
      later.move_entries(model, before, from, after, key)
    end
  end
  if from ~= key then
    write({'ZADD', model.class, '0', from}, 'ZREM', model.class, from)
    forget_manifest(model, from, old)
    later.forget_deadline(model, from)
  end
  if not old.mark or from ~= key then
    write({'ZREM', model.class, key}, 'ZADD', model.class, '0', key)
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
  local version = record.version
  if model.versioned then
    version = next_version(call, version)
    redis.call('HSET', key, '$v', version)
  end
  if deadline then
    later.end_record(call, model, key, deadline)
  elseif expires then
    later.keep_record(model, key)
  end
  if stream then
    stream.saved(call, model, op, version, value)
  end
  return {'ok', version, value or false}
end
