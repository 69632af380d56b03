-- purpose: records with a deadline: set, forget, and sweep what is due
-- defines: SWEEP, set_deadline, end_record, keep_record, forget_deadline, forget_manifest, remove_record, sweep, sweep_due
-- include: lib/beside.lua
-- include: lib/clock.lua
-- include: lib/manifest.lua
-- include: lib/moves.lua

-- Records swept by one call at most: about 25 µs each.
local SWEEP = 150

local function set_deadline(model, key, deadline)
  local before = run('ZSCORE', model.exp, key)
  if before ~= deadline then
    local inverse = before and {'ZADD', model.exp, before, key} or {'ZREM', model.exp, key}
    write(inverse, 'ZADD', model.exp, deadline, key)
  end
end

-- Gives the hash, and what stands beside it, its deadline, when that is in $Exp. One that is over already is swept
-- before the call goes on.
local function end_record(call, model, key, deadline)
  redis.call('PEXPIREAT', key, deadline)
  each_beside(model, key, 'PEXPIREAT', deadline)
  if tonumber(deadline) <= now_of(call) then
    model.ready = nil
  end
end

-- Takes it away from them, when it is no longer in $Exp.
local function keep_record(model, key)
  redis.call('PERSIST', key)
  each_beside(model, key, 'PERSIST')
end

local function forget_deadline(model, key)
  local before = run('ZSCORE', model.exp, key)
  if before then
    write({'ZADD', model.exp, before, key}, 'ZREM', model.exp, key)
  end
  return before
end

local function forget_manifest(model, key, old)
  if old.companion then
    write({'HSET', model.man, key, old.companion}, 'HDEL', model.man, key)
  end
end

-- Everything of a record but its hash and what stands beside it, which the caller deletes last.
local function remove_record(model, key, old)
  move_entries(model, cmsgpack.unpack(old.text), key, {}, key)
  write({'ZADD', model.class, '0', key}, 'ZREM', model.class, key)
  forget_manifest(model, key, old)
  forget_deadline(model, key)
end

-- Removes what is left of an expired record. What can't be removed, because something foreign stands in a key, is not
-- there: it doesn't keep the rest. A foreign value under the record's own key stays.
local function sweep(model, key)
  local old, foreign = read_manifest(model, key)
  if foreign then
    old = {companion = run('HGET', model.man, key)}
  end
  local entries = cmsgpack.unpack(old.text or old.companion or EMPTY)
  for i = 1, #entries, 3 do
    if not pcall(drop_entry, model, entries, i, key) then
      pcall(unlist_value, model, entries[i], entries[i + 1], false)
    end
  end
  redis.pcall('ZREM', model.class, key)
  redis.call('HDEL', model.man, key)
  redis.call('ZREM', model.exp, key)
  each_beside(model, key, 'DEL')
  if not foreign then
    redis.call('DEL', key)
  end
end

-- Sweeps what is due; whether more is waiting, and how many it swept.
local function sweep_due(model, now, limit)
  local due = run('ZRANGEBYSCORE', model.exp, '-inf', now, 'LIMIT', 0, limit + 1)
  for i = 1, math.min(#due, limit) do
    sweep(model, due[i])
  end
  undo, blamed = {}, false
  return #due > limit, math.min(#due, limit)
end
