-- purpose: what is wrong with one record, beside the entries that its values imply
-- defines: faults_of, told
-- include: lib/survey.lua
-- include: lib/moves.lua
-- include: lib/expiry.lua

-- A list of what is wrong: each fault is told as (kind, slot, tail, other) and has what takes it away.
local function fault(faults, kind, slot, tail, other, mend)
  faults[#faults + 1] = {told = {kind, slot, tail, other or false}, mend = mend}
end

local function state_of(op, model, key)
  local row = redis.pcall('HMGET', key, '$', unpack(op.fields))
  if is_error(row) or (not row[1] and redis.call('EXISTS', key) == 1) then
    return 'foreign'
  elseif not row[1] then
    return 'gone'
  end
  local companion = run('HGET', model.man, key)
  local text = row[1] ~= '' and row[1] or companion
  if (text or '') ~= ARGV[op.at + 1] then
    return 'changed'
  end
  for i = 1, #op.fields do
    if row[i + 1] ~= (op.present[i] == 1 and ARGV[op.at + 2 + i]) then
      return 'changed'
    end
  end
  return 'done', {mark = row[1], companion = companion, text = text, row = row}
end

-- A claim that another record has a right to stays with it: which of the two gives way is not for a program to say.
local function check_claim(op, model, after, i, key, faults)
  local slot, tail = after[i], after[i + 1]
  local _, hash = place(model, after, i)
  local owner = redis.pcall('HGET', hash, tail)
  if is_error(owner) or owner == key then
    return
  end
  local mark = owner and is_living(op.records, owner)
  if mark and occupies(model, mark, owner, slot, tail) then
    fault(faults, 'duplicate', slot, tail, owner)
  else
    fault(faults, owner and 'claim' or 'missing', slot, tail, owner, function() add_entry(model, after, i, key) end)
  end
end

local function check_member(model, after, i, key, faults)
  local _, zset = place(model, after, i)
  local score = redis.pcall('ZSCORE', zset, key)
  if is_error(score) or (score and tonumber(score) == tonumber(after[i + 2])) then
    return
  end
  local function mend()
    add_entry(model, after, i, key, score)
  end
  fault(faults, score and 'score' or 'missing', after[i], after[i + 1], score, mend)
end

local function check_lists(model, after, i, faults)
  local slot, tail = after[i], after[i + 1]
  for _, list in ipairs(unlisted(model, slot, tail)) do
    fault(faults, 'unlisted', slot, tail, list, function() list_value(model.listed[slot], tail) end)
  end
end

-- A place that the record is not to have, and has.
local function check_left(model, entries, i, key, faults)
  local kind, where = place(model, entries, i)
  local found = redis.pcall(kind == MEMBER and 'ZSCORE' or 'HGET', where, kind == MEMBER and key or entries[i + 1])
  if found and not is_error(found) and (kind == MEMBER or found == key) then
    local left = {entries[i], entries[i + 1], kind == MEMBER and found or '0'}
    fault(faults, 'extra', left[1], left[2], false, function() drop_entry(model, left, 1, key) end)
  end
end

local function check_entries(op, model, state, after, key, faults)
  local has, looked = by_place(after), {}
  for i = 1, #after, 3 do
    if place(model, after, i) == MEMBER then
      check_member(model, after, i, key, faults)
    else
      check_claim(op, model, after, i, key, faults)
    end
    check_lists(model, after, i, faults)
  end
  local before = state.text and entries_of(model, state.text) or {}
  for _, suspect in ipairs(op.suspects or {}) do
    before[#before + 1] = suspect[1]
    before[#before + 1] = suspect[2]
    before[#before + 1] = '0'
  end
  for i = 1, #before, 3 do
    local id = before[i] .. ' ' .. before[i + 1]
    if not has[id] and not looked[id] then
      looked[id] = true
      check_left(model, before, i, key, faults)
    end
  end
end

local function check_record(call, model, state, after_text, key, faults)
  local ends, slack = deadline_of(call, key)
  local listed = run('ZSCORE', model.exp, key)
  if not deadlines_agree(ends, listed, slack) then
    fault(faults, 'deadline', -1, '', listed, function()
      if ends then
        set_deadline(model, key, string.format('%.0f', ends))
      else
        forget_deadline(model, key)
      end
    end)
  end
  local class = run('ZSCORE', model.class, key)
  if tonumber(class or 1) ~= 0 then
    local inverse = class and {'ZADD', model.class, class, key} or {'ZREM', model.class, key}
    fault(faults, 'class', -1, '', class, function() write(inverse, 'ZADD', model.class, '0', key) end)
  end
  local outside = ends ~= nil or #after_text > MANIFEST_INLINE
  local placed = (state.mark == '') == outside and (state.companion ~= false) == outside
  if state.text ~= after_text or not placed then
    fault(faults, 'manifest', -1, '', state.text and #state.text > 0, function()
      local mark = store_manifest(model, key, state, after_text, ends ~= nil)
      if mark ~= state.mark then
        write({'HSET', key, '$', state.mark}, 'HSET', key, '$', mark)
      end
    end)
  end
end

-- Stored values that go under another name, unless there is a value under that already.
local function check_names(op, state, key, faults)
  local column = {}
  for i, name in ipairs(op.fields) do
    column[name] = i + 1
  end
  for _, rename in ipairs(op.renames or {}) do
    local old, new = rename[1], rename[2]
    local value = state.row[column[old]]
    if value then
      fault(faults, 'name', -1, old, new, function()
        if not state.row[column[new]] then
          write({'HDEL', key, new}, 'HSET', key, new, value)
        end
        write({'HSET', key, old, value}, 'HDEL', key, old)
      end)
    end
  end
end

local function faults_of(call, op, model)
  local key, after_text, faults = ARGV[op.at], ARGV[op.at + 2], {}
  local status, state = state_of(op, model, key)
  if status == 'done' then
    check_entries(op, model, state, cmsgpack.unpack(after_text), key, faults)
    check_record(call, model, state, after_text, key, faults)
    check_names(op, state, key, faults)
  end
  return status, faults
end

local function told(faults)
  local found = {}
  for i, one in ipairs(faults) do
    found[i] = one.told
  end
  return found
end
