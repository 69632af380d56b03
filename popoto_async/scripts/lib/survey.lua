-- purpose: what stands on the server for a record, whatever state it is in; nothing that is read is trusted
-- defines: entries_of, is_living, occupies, unlisted, is_value, deadline_of, deadlines_agree, amiss
-- include: lib/clock.lua
-- include: lib/writes.lua
-- include: lib/manifest.lua
-- include: lib/errors.lua
-- include: lib/places.lua
-- include: lib/unlisting.lua

-- Milliseconds that a server without PEXPIRETIME may be off when it is asked for a deadline.
local SLACK = 50

-- The entries of a manifest; nil where the bytes are none under this slot table.
local function entries_of(model, text)
  local done, entries = pcall(cmsgpack.unpack, text)
  if not done or type(entries) ~= 'table' or #entries % 3 ~= 0 then
    return nil
  end
  for i = 1, #entries, 3 do
    local tail, score = entries[i + 1], entries[i + 2]
    if not model.places[(tonumber(entries[i]) or -1) + 1] or type(tail) ~= 'string' or type(score) ~= 'string' or not tonumber(score) then
      return nil
    end
  end
  return entries
end

-- The mark of the record under a key; nil where there is no record of this model.
local function is_living(records, key)
  local mark = key:sub(1, #records) == records and redis.pcall('HGET', key, '$')
  return mark and not is_error(mark) and mark or nil
end

-- Whether a manifest of a living record names this place.
local function occupies(model, mark, key, slot, tail)
  local text = mark ~= '' and mark or redis.call('HGET', model.man, key)
  local entries = text and entries_of(model, text) or {}
  for i = 1, #entries, 3 do
    if entries[i] == slot and entries[i + 1] == tail then
      return true
    end
  end
  return false
end

-- The lists of an index that are to name the value of a tail and don't.
local function unlisted(model, slot, tail)
  local found = {}
  for i, list in ipairs(tail ~= NULL and model.listed and model.listed[slot] or {}) do
    local score = redis.pcall('ZSCORE', list, i == 2 and mirrored(tail) or tail)
    if not is_error(score) and tonumber(score or 1) ~= 0 then
      found[#found + 1] = list
    end
  end
  return found
end

-- Whether something stands under a text that one of the lists of an index names.
local function is_value(model, slot, kind, text)
  local tail = kind == 'mirror' and mirrored(text) or text
  return tail ~= NULL and has_value(model, slot, tail)
end

-- When the hash under a key ends, in ms of 1970; nil where it doesn't. And how far off that may be.
local function deadline_of(call, key)
  local at = redis.pcall('PEXPIRETIME', key)
  if not is_error(at) then
    return at >= 0 and at or nil, 0
  end
  local left = redis.call('PTTL', key)
  return left >= 0 and now_of(call) + left or nil, SLACK
end

local function deadlines_agree(ends, listed, slack)
  if not ends or not listed then
    return not ends and not listed
  end
  return math.abs(ends - tonumber(listed)) <= slack
end

-- What is wrong with a list beside a record: 'orphan' where there is no record, 'deadline' where it ends at another
-- time (then comes the record's); false where nothing is. A foreign value under the record's key is told elsewhere.
local function amiss(call, records, key, record)
  if redis.call('EXISTS', record) == 0 then
    return 'orphan'
  elseif not is_living(records, record) then
    return false
  end
  local ends, slack = deadline_of(call, record)
  return not deadlines_agree(ends, deadline_of(call, key), slack) and 'deadline', ends
end
