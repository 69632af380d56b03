-- purpose: the entry that a record's stream gets for each write of it: in the same script, after everything that can fail
-- defines: stream

local stream = {}

-- Asked before the first write: something else under the stream's key is the one thing that could keep an entry out.
function stream.refusal(model)
  local kind = redis.call('TYPE', model.events.key).ok
  return kind ~= 'none' and kind ~= 'stream' and {'corrupt', 'a ' .. kind .. ', not a stream', model.events.key}
end

-- The form of the entries, 1: fields `v` (that), `op`, `key`, `from` (the former key, where the record moved), `version`,
-- then `=field` with each value and `-field` for each that is null now.
local function begin(model, kind, key)
  local events = model.events
  return {'XADD', events.key, 'MAXLEN', '~', events.limit, '*', 'v', '1', 'op', kind, 'key', key}
end

local function add(entry, name, text)
  entry[#entry + 1] = name
  entry[#entry + 1] = text
end

-- Where all values are wanted, those that stand in the record.
local function add_all(entry, model, key)
  local fields = {cmsgpack.unpack(model.fields)}
  local stored = redis.call('HMGET', key, unpack(fields))
  for i, field in ipairs(fields) do
    if field ~= '$v' and not (model.lists and model.lists[field]) then
      add(entry, (stored[i] and '=' or '-') .. field, stored[i] or '')
    end
  end
end

-- A transaction holds its entries back until none of its steps can fail any more: what an entry pushes out of a bounded
-- stream could not be put back.
local function finish(call, entry)
  if call.held then
    call.held[#call.held + 1] = entry
  else
    redis.call(unpack(entry))
  end
end

-- A save: its values stand in ARGV, but for the sum of an increment.
function stream.saved(call, model, op, version, value)
  local entry = begin(model, op.touched and 'update' or 'create', op.key)
  if op.from then
    add(entry, 'from', op.from)
  end
  if version then
    add(entry, 'version', version)
  end
  if model.events.values == 'all' then
    add_all(entry, model, op.key)
  elseif model.events.values == 'changed' then
    local drops_at = op.at + op.sets
    for i = op.at, drops_at - 1, 2 do
      add(entry, '=' .. ARGV[i], ARGV[i + 1])
    end
    for i = drops_at, drops_at + (op.drops or 0) - 1 do
      add(entry, '-' .. ARGV[i], '')
    end
    if value then
      add(entry, '=' .. op.add.field, value)
    end
  end
  finish(call, entry)
end

-- A change of some fields, false for null.
function stream.changed(call, model, key, version, values)
  local entry = begin(model, 'update', key)
  if version then
    add(entry, 'version', version)
  end
  if model.events.values == 'all' then
    add_all(entry, model, key)
  elseif model.events.values == 'changed' then
    for field, value in pairs(values) do
      add(entry, (value and '=' or '-') .. field, value or '')
    end
  end
  finish(call, entry)
end

-- While the record still stands there.
function stream.deleted(call, model, key)
  local entry = begin(model, 'delete', key)
  if model.events.values == 'all' then
    add_all(entry, model, key)
  end
  finish(call, entry)
end
