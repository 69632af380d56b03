-- purpose: a save where something stands already: of some fields of a record, under another key, over another record
-- defines: change
-- include: lib/manifest.lua
-- include: lib/writes.lua

-- The record as it stands under the key it had, what stands under the key it comes to, and the version; or the outcome
-- that refuses the save.
local function examine(op, model, key, from)
  local inserting = not op.touched
  local old, foreign = read_manifest(model, from)
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
  local elsewhere = op.relies and later.found_elsewhere(op, model, cmsgpack.unpack(ARGV[op.at + op.sets]))
  if elsewhere then
    return elsewhere
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
local function entries_of(op, old, from)
  local packed = ARGV[op.at + op.sets + (op.drops or 0)]
  if not op.touched then
    local before = listed_entries(old.text)
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

-- Nothing of it can fail: the types were checked.
local function change_hash(op, key, from, old, mark)
  if from ~= key then
    redis.call('RENAME', from, key)
  elseif not op.touched and old.mark then
    redis.call('DEL', key)
  end
  if op.drops then
    local drops_at = op.at + op.sets
    redis.call('HDEL', key, unpack(ARGV, drops_at, drops_at + op.drops - 1))
  end
  if op.sets > 0 or mark ~= old.mark or not op.touched then
    later.store_hash(op, key, mark)
  end
end

local function change(call, op, model)
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
  local before, after, text, value, declined = entries_of(op, old, from)
  local obstructed = declined or ((model.kinds or model.events) and later.obstacle(op, model, after, key))
  if obstructed then
    return obstructed
  end

  local expires = run('ZSCORE', model.exp, from)
  local deadline = op.deadline or (op.ttl and later.deadline_in(call, op.ttl)) or
    (not inserting and not op.persist and expires) or nil
  if model.unregistered then
    later.register_slots(model)
  end
  if target ~= old and (target.mark or target.companion) then
    later.remove_record(model, key, target)
    target = {}
  end
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
  if deadline then
    later.set_deadline(model, key, deadline)
  elseif expires and from == key then
    later.forget_deadline(model, key)
  end
  change_hash(op, key, from, old, store_manifest(model, key, target, text, deadline))
  if value then
    redis.call('HSET', key, op.add.field, value)
  end
  return later.afterwards(call, op, model, key, deadline, version, value, expires)
end
