-- purpose: keys of their own that stand beside a record: they live, move, expire and go with it
-- defines: BESIDE, beside_key, require_besides, each_beside, rename_besides, hold_besides, replace_list, store_besides
-- include: lib/writes.lua

-- The kinds of slots that stand for such keys, and the type of each. A record has at most one key for each of these
-- slots, whether or not its manifest is ever touched: which keys those are follows from its own key and the slot table.
local BESIDE = {l = 'list'}

-- The parts of a record's key begin where its model's name and the colon end: 6 bytes less than `$Class:` and the name.
local function beside_key(model, slot, record)
  return model.places[slot + 1] .. record:sub(#model.class - 5)
end

-- What stands under such a key: the type it has to be, or another; nothing of it where there is none.
local function found_type(model, slot, record)
  local key = beside_key(model, slot, record)
  local found = redis.call('TYPE', key).ok
  return key, found ~= 'none' and found, BESIDE[model.kinds[slot]]
end

-- Fails, and blames the key, where something foreign stands in one of a record's keys.
local function require_besides(model, record)
  for _, slot in ipairs(model.beside or {}) do
    local key, found, wanted = found_type(model, slot, record)
    if found and found ~= wanted then
      blamed = key
      error('WRONGTYPE ' .. found .. ' in place of a ' .. wanted, 0)
    end
  end
end

-- Runs a command on each of a record's keys that are there, and on nothing foreign.
local function each_beside(model, record, command, ...)
  for _, slot in ipairs(model.beside or {}) do
    local key, found, wanted = found_type(model, slot, record)
    if found == wanted then
      redis.call(command, key, ...)
    end
  end
end

-- Moves a record's keys, in place of those that another record had.
local function rename_besides(model, from, to)
  each_beside(model, to, 'DEL')
  for _, slot in ipairs(model.beside or {}) do
    local key, found = found_type(model, slot, from)
    if found then
      redis.call('RENAME', key, beside_key(model, slot, to))
    end
  end
end

-- `unpack` stops near 8,000 values.
local LIST_ARGUMENTS = 4000

-- Stores a list's items, which stand in ARGV from `at` on, in place of those it has; where the next items stand.
local function replace_list(key, at, count)
  redis.call('DEL', key)
  for first = at, at + count - 1, LIST_ARGUMENTS do
    redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + LIST_ARGUMENTS, at + count) - 1))
  end
  return at + count
end

-- Remembers what stands in a record's keys, so that all that a transaction does to them can be taken back.
local function hold_besides(model, record, deadline)
  for _, slot in ipairs(model.beside or {}) do
    local key = beside_key(model, slot, record)
    local copy = redis.call('DUMP', key)
    undo[#undo + 1] = copy and {'RESTORE', key, deadline or '0', copy, 'REPLACE', 'ABSTTL'} or {'DEL', key}
  end
end

-- What a save does to the keys beside its record. Nothing of it can fail: what stands there was checked.
local function store_besides(op, model, key, from)
  if from ~= key then
    rename_besides(model, from, key)
  elseif not op.touched then
    each_beside(model, key, 'DEL')
  end
  local at = op.at + op.sets + (op.drops or 0) + 1 + #(op.expect or {})
  for _, list in ipairs(op.lists or {}) do
    at = replace_list(beside_key(model, list[1], key), at, list[2])
  end
end
