-- purpose: look at records: their stored values, their manifests, and whether everything stands where these say
-- keys: the records, the index keys their manifests name, $Class, $Man, $Exp
-- args: op.n keys at op.at; op.fields
-- reply: ok, for each key: false (no record) | foreign type | row manifest sound (1 or 0); slots
-- include: lib/survey.lua
-- include: lib/slots.lua

local function stands(model, entries, key)
  for i = 1, #entries, 3 do
    local kind, where = place(model, entries, i)
    if #unlisted(model, entries[i], entries[i + 1]) > 0 then
      return false
    end
    if kind == MEMBER then
      local score = redis.pcall('ZSCORE', where, key)
      if not score or is_error(score) or tonumber(score) ~= tonumber(entries[i + 2]) then
        return false
      end
    elseif redis.pcall('HGET', where, entries[i + 1]) ~= key then
      return false
    end
  end
  return true
end

-- What is listed of all the keys, asked for at once; nothing of a key where there are none.
local function listed(op, model)
  if op.n == 0 then
    return {}, {}, {}
  end
  local last = op.at + op.n - 1
  return run('HMGET', model.man, unpack(ARGV, op.at, last)), run('ZMSCORE', model.class, unpack(ARGV, op.at, last)),
    run('ZMSCORE', model.exp, unpack(ARGV, op.at, last))
end

local function is_sound(call, model, key, mark, companion, class, deadline)
  local text = mark ~= '' and mark or companion
  local entries = text and entries_of(model, text)
  if not entries or not stands(model, entries, key) then
    return false
  end
  local ends, slack = deadline_of(call, key)
  local outside = ends ~= nil or #text > MANIFEST_INLINE
  return class == '0' and deadlines_agree(ends, deadline, slack)
    and (mark == '') == outside and (companion ~= false) == outside
end

local function examined(call, model, key, names, companion, class, deadline)
  local row = redis.pcall('HMGET', key, unpack(names))
  if is_error(row) then
    return {'foreign', redis.call('TYPE', key).ok}
  end
  local mark = table.remove(row)
  if not mark then
    return redis.call('EXISTS', key) == 1 and {'foreign', 'hash'}
  end
  local sound = is_sound(call, model, key, mark, companion, class, deadline)
  return {row, mark ~= '' and mark or companion, sound and 1 or 0}
end

operations.audit = function(call, op, model)
  local moved = slots_differ(model)
  if moved then
    return moved
  end
  local names, found = {unpack(op.fields)}, {}
  names[#names + 1] = '$'
  local companions, classes, deadlines = listed(op, model)
  for i = 1, op.n do
    found[i] = examined(call, model, ARGV[op.at + i - 1], names, companions[i], classes[i], deadlines[i])
  end
  return {'ok', found}
end
