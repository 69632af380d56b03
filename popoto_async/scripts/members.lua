-- purpose: go through index keys and find the members that no manifest of a living record names
-- keys: the index keys, the keys beside records, the records these name, $Class, $Man, $Exp
-- args: op.n keys at op.at, for each its op.slots and op.kinds; op.cursor, op.budget, op.records
-- reply: ok suspects foreign examined next cursor; a suspect is (number of its key, tail, member, 1 if it lives)
-- include: lib/survey.lua
-- include: lib/slots.lua

-- By kind: how the members of a key are read, and whether they are hash fields or the values of these.
local readers = {
  m = {'ZSCAN'}, c = {'HSCAN', true}, class = {'ZSCAN'}, deadlines = {'ZSCAN'}, manifests = {'HSCAN'},
  list = {'ZSCAN'}, mirror = {'ZSCAN'},
}
local is_list = {list = true, mirror = true}
local every_record = {class = true, deadlines = true, manifests = true}

-- In a manifest of this length no byte below 32 stands for anything but a slot, so an entry is found by its bytes.
local PLAIN = 255

-- What a place looks like in a manifest; nil where that would not tell it from everything else.
local function look_of(slot, tail)
  return slot >= 0 and slot < 32 and cmsgpack.pack(slot) .. cmsgpack.pack(tail) or nil
end

local find, try = string.find, redis.pcall

-- Whether a living record with a short manifest names a place of this look (of the class no place: an empty text). Of
-- nearly all members no more has to be asked.
local function is_named(records, member, look)
  local mark = find(member, records, 1, true) == 1 and try('HGET', member, '$')
  return type(mark) == 'string' and #mark <= PLAIN and find(mark, look, 1, true) ~= nil
end

-- Whether a living record is to stand there, and whether it lives; of a list, whether there is such a value.
local function belongs(op, model, i, tail, member, look)
  if is_list[op.kinds[i]] then
    return op.slots[i] >= 0 and is_value(model, op.slots[i], op.kinds[i], member), 0
  end
  local mark = is_living(op.records, member)
  if not mark then
    return false, 0
  elseif every_record[op.kinds[i]] then
    return true, 1
  elseif look and mark ~= '' and #mark <= PLAIN then
    return mark:find(look, 1, true) ~= nil, 1
  end
  return op.slots[i] >= 0 and occupies(model, mark, member, op.slots[i], tail), 1
end

-- A list beside a record is one thing to look at.
local function look_beside(call, op, i, suspects)
  local key, record = ARGV[op.at + i - 1], op.records .. op.tails[i]
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'list' and kind ~= 'none' then
    return nil, kind
  end
  local wrong = kind == 'list' and amiss(call, op.records, key, record)
  if wrong then
    suspects[#suspects + 1] = {i, '', record, wrong == 'deadline' and 1 or 0}
  end
  return '0', 1
end

local function page(call, op, model, i, cursor, suspects)
  if op.kinds[i] == 'beside' then
    return look_beside(call, op, i, suspects)
  end
  local key, reader = ARGV[op.at + i - 1], readers[op.kinds[i]]
  local reply = redis.pcall(reader[1], key, cursor, 'COUNT', 250)
  if is_error(reply) then
    return nil, redis.call('TYPE', key).ok
  end
  local items, kind = reply[2], op.kinds[i]
  local look = kind == MEMBER and look_of(op.slots[i], op.tails[i]) or (kind ~= 'manifests' and every_record[kind] and '')
  for at = 1, #items, 2 do
    local member = items[at]
    if not look or not is_named(op.records, member, look) then
      local tail = reader[2] and member or op.tails[i]
      member = reader[2] and items[at + 1] or member
      local fine, lives = belongs(op, model, i, tail, member, reader[2] and look_of(op.slots[i], tail) or look)
      if not fine then
        suspects[#suspects + 1] = {i, tail, member, lives}
      end
    end
  end
  return reply[1], #items / 2
end

operations.members = function(call, op, model)
  local moved = slots_differ(model)
  if moved then
    return moved
  end
  local suspects, foreign, examined = {}, {}, 0
  local i, cursor = op.first or 1, op.cursor or '0'
  while i <= op.n do
    local following, count = page(call, op, model, i, cursor, suspects)
    if not following then
      foreign[#foreign + 1] = {i, count}
      following, count = '0', 1
    end
    examined, cursor = examined + count, following
    i = following == '0' and i + 1 or i
    if examined >= op.budget and i <= op.n then
      return {'ok', suspects, foreign, examined, i, cursor}
    end
  end
  return {'ok', suspects, foreign, examined, 0, '0'}
end
