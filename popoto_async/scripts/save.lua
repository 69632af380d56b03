-- purpose: store a record and move it to the entries its values imply, or change nothing
-- keys: the record, the index keys named by its old and new entries, $Class, $Man, $Exp
-- args: values at op.at: op.sets hash arguments, op.drops names, the packed entries, the expected values
-- reply: ok version value | unique slot tail owner | exists key row | gone | stale | moved row | foreign | declined

-- `unpack` stops near 8,000 values.
local HASH_ARGUMENTS = 4000

local function row_of(model, key)
  return redis.call('HMGET', key, unpack(model.fields))
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

-- The value an increment arrives at, put into the entries wherever they wait for it.
local function computed_entries(op, entries, value)
  -- Adding 0 makes 0 of -0, which equals it.
  local score = float_text(tonumber(value) + 0)
  local exact = decimal.compare(score, value) == 0
  local token = op.add.float and score or decimal.token(value)
  local placed = {}
  for i = 1, #entries, 3 do
    if entries[i + 2] ~= '\2' or not exact then
      local waiting = entries[i + 2] == '\1' or entries[i + 2] == '\2'
      placed[#placed + 1] = entries[i]
      placed[#placed + 1] = (entries[i + 1]:gsub('\1', function() return token end))
      placed[#placed + 1] = waiting and score or entries[i + 2]
    end
  end
  return placed
end

local function incremented(op, key)
  local stored = redis.call('HGET', key, op.add.field) or '0'
  if op.add.float then
    local number = tonumber(stored)
    local sum = number and number + tonumber(op.add.by)
    return sum and sum - sum == 0 and float_text(sum)
  end
  return decimal.add(stored, op.add.by)
end

operations.save = function(call, op, model)
  local key, from = op.key, op.from or op.key
  local inserting = op.mode == 'insert'
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
  local found = op.found and found_owner(model, cmsgpack.unpack(ARGV[op.at + op.sets]), op.found)
  if found then
    return {'unique', op.found, '', found, row_of(model, found)}
  end
  if (inserting or from ~= key) and target.mark and op.if_exists then
    return {'exists', key, op.if_exists == 'return' and not op.found and row_of(model, key)}
  end

  local version = model.versioned and redis.call('HGET', from, '$v')
  if op.version and version ~= op.version then
    return {'stale', version}
  end
  local entries_at = op.at + op.sets + (op.drops or 0)
  if has_moved(op, from, entries_at) then
    return {'moved', row_of(model, from)}
  end
  local value = op.add and incremented(op, from)
  if op.add and not value then
    return {'declined', redis.call('HGET', from, op.add.field)}
  end

  -- The entries after the save; nil where a partial save touches none and the key stays.
  local before, after, text = cmsgpack.unpack(old.text), nil, old.text
  if not op.touched then
    text = ARGV[entries_at]
    after = text ~= old.text and cmsgpack.unpack(text) or nil
  elseif #op.touched > 0 then
    local fresh = cmsgpack.unpack(ARGV[entries_at])
    after = merge_entries(before, op.add and computed_entries(op, fresh, value) or fresh, op.touched)
    text = cmsgpack.pack(after)
  end
  after = after or ((from ~= key or inserting) and before) or nil
  if after then
    local slot, tail, owner = claim_conflict(model, after, key, from, inserting)
    if slot then
      return {'unique', slot, tail, owner, false}
    end
  end

  local expires = run('ZSCORE', model.exp, from)
  local deadline = op.deadline or (op.ttl and string.format('%.0f', call.now + op.ttl)) or
    (not inserting and not op.persist and expires) or nil
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
  local mark = store_manifest(model, key, target, text, deadline)

  -- From here on nothing can fail: the types were checked.
  if from ~= key then
    redis.call('RENAME', from, key)
  elseif inserting and old.mark then
    redis.call('DEL', key)
  end
  if op.drops then
    redis.call('HDEL', key, unpack(ARGV, op.at + op.sets, entries_at - 1))
  end
  if op.sets > 0 then
    redis.call('HSET', key, '$', mark, unpack(ARGV, op.at, math.min(op.at + op.sets, op.at + HASH_ARGUMENTS) - 1))
  elseif mark ~= old.mark or inserting then
    redis.call('HSET', key, '$', mark)
  end
  for first = op.at + HASH_ARGUMENTS, op.at + op.sets - 1, HASH_ARGUMENTS do
    redis.call('HSET', key, unpack(ARGV, first, math.min(first + HASH_ARGUMENTS, op.at + op.sets) - 1))
  end
  if value then
    redis.call('HSET', key, op.add.field, value)
  end
  if model.versioned then
    version = next_version(call, version)
    redis.call('HSET', key, '$v', version)
  end
  if deadline then
    end_record(call, model, key, deadline)
  elseif expires then
    redis.call('PERSIST', key)
  end
  return {'ok', version, value or false}
end
