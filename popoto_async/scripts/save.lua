-- purpose: store a record and move it to the entries its values imply, or change nothing
-- keys: the record, the keys beside it, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: values at op.at: op.sets hash arguments, op.drops names, the packed entries, the expected values, list items
-- reply: ok version value | unique slot tail owner | exists key row | gone | stale | moved row | foreign | declined value field
-- include: lib/expiry.lua
-- include: lib/lists.lua
-- include: lib/slots.lua
-- include: lib/streams.lua

-- `unpack` stops near 8,000 values.
local HASH_ARGUMENTS = 4000

local function row_of(model, key)
  local row = redis.call('HMGET', key, unpack(model.fields))
  if model.lists then
    read_lists(model, model.fields, key, row)
  end
  return row
end

-- Fields whose stored values the plan was built on, though it doesn't write them.
local function has_moved(op, key, at)
  for i, name in ipairs(op.expect or {}) do
    if redis.call('HGET', key, name) ~= (op.present[i] == 1 and ARGV[at + i] or false) then
      return true
    end
  end
  return false
end

-- The next version: never one that an earlier record under this key had, so it starts at the clock.
local function next_version(call, stored)
  return string.format('%.0f', stored and tonumber(stored) + 1 or call.micros)
end

-- The living owner of the claim that a new record would have in a slot.
local function found_owner(model, entries, slot)
  for i = 1, #entries, 3 do
    local _, hash = place(model, entries, i)
    local owner = entries[i] == slot and run('HGET', hash, entries[i + 1])
    if owner and redis.call('EXISTS', owner) == 1 then
      return owner
    end
  end
end

-- What only an increment needs.
local function arithmetic()
  -- include: lib/increment.lua
  return incremented, computed_entries
end

-- The record as it stands under the key it had (`old`), and what stands under the key it comes to (`target`); or the
-- outcome that refuses the save.
local function examine(op, model, key, from)
  local inserting = op.mode == 'insert'
  local old, foreign = read_manifest(model, from)
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
  local found = op.found and found_owner(model, cmsgpack.unpack(ARGV[op.at + op.sets]), op.found)
  if found then
    return nil, {'unique', op.found, '', found, row_of(model, found)}
  end
  if (inserting or from ~= key) and target.mark and op.if_exists then
    return nil, {'exists', key, op.if_exists == 'return' and not op.found and row_of(model, key)}
  end
  local version = model.versioned and redis.call('HGET', from, '$v')
  if op.version and version ~= op.version then
    return nil, {'stale', version}
  end
  if has_moved(op, from, op.at + op.sets + (op.drops or 0)) then
    return nil, {'moved', row_of(model, from)}
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
  local after = merge_entries(before, computed and computed(op, fresh, value) or fresh, op.touched)
  return before, after, cmsgpack.pack(after), value
end

-- Writes the fields. Nothing of it can fail: the types were checked.
local function store_fields(op, key, from, old, mark)
  local last = op.at + op.sets - 1
  if from ~= key then
    redis.call('RENAME', from, key)
  elseif op.mode == 'insert' and old.mark then
    redis.call('DEL', key)
  end
  if op.drops then
    redis.call('HDEL', key, unpack(ARGV, last + 1, last + op.drops))
  end
  if op.sets > 0 then
    redis.call('HSET', key, '$', mark, unpack(ARGV, op.at, math.min(last, op.at + HASH_ARGUMENTS - 1)))
  elseif mark ~= old.mark or op.mode == 'insert' then
    redis.call('HSET', key, '$', mark)
  end
  for first = op.at + HASH_ARGUMENTS, last, HASH_ARGUMENTS do
    redis.call('HSET', key, unpack(ARGV, first, math.min(first + HASH_ARGUMENTS - 1, last)))
  end
end

-- Writes the keys beside the record. Nothing of it can fail, either.
local function store_besides(op, model, key, from)
  if from ~= key then
    rename_besides(model, from, key)
  elseif op.mode == 'insert' then
    each_beside(model, key, 'DEL')
  end
  local at = op.at + op.sets + (op.drops or 0) + 1 + #(op.expect or {})
  for _, list in ipairs(op.lists or {}) do
    at = replace_list(beside_key(model, list[1], key), at, list[2])
  end
end

operations.save = function(call, op, model)
  local key, from = op.key, op.from or op.key
  local inserting = op.mode == 'insert'
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
    require_besides(model, from)
    require_besides(model, key)
  end
  local deadline = op.deadline or (op.ttl and string.format('%.0f', call.now + op.ttl)) or
    (not inserting and not op.persist and expires) or nil
  if model.unregistered then
    register_slots(model)
  end
  if target ~= old and (target.mark or target.companion) then
    remove_record(model, key, target)
    target = {}
  end
  if after then
    move_entries(model, before, from, after, key)
  end
  if from ~= key then
    write({'ZADD', model.class, '0', from}, 'ZREM', model.class, from)
    forget_manifest(model, from, old)
    forget_deadline(model, from)
  end
  if not old.mark or from ~= key then
    write({'ZREM', model.class, key}, 'ZADD', model.class, '0', key)
  end
  if deadline then
    set_deadline(model, key, deadline)
  elseif expires and from == key then
    forget_deadline(model, key)
  end
  store_fields(op, key, from, old, store_manifest(model, key, target, text, deadline))
  if value then
    redis.call('HSET', key, op.add.field, value)
  end
  if model.beside then
    store_besides(op, model, key, from)
  end
  local version = record.version
  if model.versioned then
    version = next_version(call, version)
    redis.call('HSET', key, '$v', version)
  end
  if deadline then
    end_record(call, model, key, deadline)
  elseif expires then
    keep_record(model, key)
  end
  if stream then
    stream.saved(call, model, op, version, value)
  end
  return {'ok', version, value or false}
end
