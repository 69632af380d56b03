-- purpose: look at records: their stored values, their manifests, and whether everything stands where these say
-- keys: the records, the index keys their manifests name, $Class, $Man, $Exp
-- args: op.n keys at op.at; op.fields
-- reply: ok, one list with, for each key: its row, its manifest or foreign type, its state; slots
-- include: lib/survey.lua
-- include: lib/slots.lua

-- What stands under a key: no record, a record where something is not as its manifest says, one in order, something else.
local NONE, AMISS, SOUND, FOREIGN = -1, 0, 1, 2

-- How much one command asks for: `unpack` has its bounds.
local MOST_ASKED = 1000

-- What is to stand in a key, asked for at once: members of a sorted set or fields of a hash, what they are expected to
-- have, and where the states of the records stand in the reply.
local function expect(questions, command, key, asked, expected, at)
  local one = questions[key]
  if not one then
    one = {command = command, key = key, asked = {}, expected = {}, states = {}}
    questions[key] = one
  end
  local n = #one.asked + 1
  one.asked[n], one.expected[n], one.states[n] = asked, expected, at
end

-- Adds what a manifest says to what is to be asked for. Of texts that are to be listed only where they are not is told.
local function expect_entries(questions, lists, model, entries, key, at)
  for i = 1, #entries, 3 do
    local tail = entries[i + 1]
    local kind, where = place(model, entries, i)
    if kind == MEMBER then
      expect(questions, 'ZMSCORE', where, key, entries[i + 2], at)
    else
      expect(questions, 'HMGET', where, tail, key, at)
    end
    local names = tail ~= NULL and model.listed and model.listed[entries[i]]
    for j = 1, names and #names or 0 do
      expect(lists, 'ZMSCORE', names[j], j == 2 and mirrored(tail) or tail, '0', at)
    end
  end
end

-- Asks, and has the records not be sound where the answer is another one; in a key that can't be read all are, if `trusted`.
local function ask(questions, reply, trusted)
  for _, one in pairs(questions) do
    local asked, expected, states, scored = one.asked, one.expected, one.states, one.command == 'ZMSCORE'
    for first = 1, #asked, MOST_ASKED do
      local last = math.min(first + MOST_ASKED - 1, #asked)
      local found = redis.pcall(one.command, one.key, unpack(asked, first, last))
      local unread = is_error(found)
      for i = first, unread and trusted and 0 or last do
        local it = not unread and found[i - first + 1]
        if it ~= expected[i] and not (it and scored and tonumber(it) == tonumber(expected[i])) then
          reply[states[i]] = AMISS
        end
      end
    end
  end
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

-- Whether the record by itself is in order; then its entries are the second result.
local function is_sound(call, model, key, mark, companion, class, deadline)
  local text = mark ~= '' and mark or companion
  local entries = text and entries_of(model, text)
  if not entries then
    return false
  end
  local ends, slack = deadline_of(call, key)
  local outside = ends ~= nil or #text > MANIFEST_INLINE
  return class == '0' and deadlines_agree(ends, deadline, slack)
    and (mark == '') == outside and (companion ~= false) == outside, entries
end

-- Puts what stands under a key at the end of the reply; the entries of a record that is sound by itself are the result.
local function examine(call, model, key, names, reply, companion, class, deadline)
  local row, at = redis.pcall('HMGET', key, unpack(names)), #reply
  local state, text, entries = NONE, false, nil
  if is_error(row) then
    state, text, row = FOREIGN, redis.call('TYPE', key).ok, {}
  else
    local mark = row[#names]
    if mark then
      local sound
      sound, entries = is_sound(call, model, key, mark, companion, class, deadline)
      state, text, entries = sound and SOUND or AMISS, mark ~= '' and mark or companion, sound and entries
    elseif redis.call('EXISTS', key) == 1 then
      state, text = FOREIGN, 'hash'
    end
  end
  for i = 1, #names - 1 do
    reply[at + i] = row[i] or false
  end
  reply[at + #names], reply[at + #names + 1] = text, state
  return entries
end

operations.audit = function(call, op, model)
  local moved = slots_differ(model)
  if moved then
    return moved
  end
  local names, reply, questions, lists = {unpack(op.fields)}, {}, {}, {}
  names[#names + 1] = '$'
  local companions, classes, deadlines = listed(op, model)
  for i = 1, op.n do
    local key = ARGV[op.at + i - 1]
    local entries = examine(call, model, key, names, reply, companions[i], classes[i], deadlines[i])
    if entries then
      expect_entries(questions, lists, model, entries, key, #reply)
    end
  end
  ask(questions, reply)
  ask(lists, reply, true)
  return {'ok', reply}
end
