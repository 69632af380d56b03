-- purpose: remove a record that others refer to, and do to these what their relations say
-- keys: the record, all that refer to it and to those that go with it, their keys beside them, their index keys
-- args: op.key, op.graph, op.null; op.cursor to go on
-- reply: ok 1 or 0 | more cursor | protected key model field referrers | large most | foreign key type
-- include: lib/referrers.lua

local SHOWN = 10

-- Some living records other than this one that refer to it.
local function protectors(set, key)
  local found, first = {}, 0
  repeat
    local members = run('ZRANGE', set, first, first + 99)
    for _, member in ipairs(members) do
      if #found < SHOWN and member ~= key and redis.call('EXISTS', member) == 1 then
        found[#found + 1] = member
      end
    end
    first = first + 100
  until #members == 0 or #found > 0
  return #found > 0 and found
end

-- Everything that goes with a record, itself first, and what refers to any of it; nil where that is too much for one
-- call. The second result is the outcome that forbids it.
local function survey(graph, key)
  local doomed, nulls, count, at = {[key] = 1, key}, {}, 1, 1
  while doomed[at] do
    local node = graph[doomed[doomed[at]]]
    for _, name in ipairs(names_of(node, doomed[at])) do
      for _, ref in ipairs(node.refs) do
        local set = ref.rel .. name
        local found = ref.act == 'PROTECT' and protectors(set, doomed[at])
        if found then
          return nil, {'protected', doomed[at], graph[ref.n].name, ref.f, found}
        end
        local most = MOST_REFERRERS - count
        local members = ref.act == 'PROTECT' and {} or run('ZRANGE', set, 0, most)
        if #members > most then
          return nil
        end
        for _, member in ipairs(members) do
          if ref.act == 'SET_NULL' then
            nulls[#nulls + 1] = {member, ref}
            count = count + 1
          elseif not doomed[member] then
            doomed[#doomed + 1], doomed[member] = member, ref.n
            count = count + 1
          end
        end
      end
    end
    at = at + 1
  end
  return doomed, nulls
end

local function forget_names(node, key)
  for _, name in ipairs(names_of(node, key)) do
    local stored = name ~= key and run('HGET', node.alias, name)
    if stored then
      write({'HSET', node.alias, name, stored}, 'HDEL', node.alias, name)
    end
  end
end

-- Takes a record from everything but its hash; whether something foreign stands there, which has to stay.
local function take_out(node, key)
  local old, foreign = read_manifest(node.m, key)
  if not foreign then
    slot_of(node.m, '')
    require_besides(node.m, key)
    remove_record(node.m, key, old)
    forget_names(node, key)
  end
  return foreign
end

-- All of it, or nothing.
local function erase_whole(call, op, doomed, nulls)
  local later, gone = {}, {}
  for _, null in ipairs(nulls) do
    local member, ref = null[1], null[2]
    if not doomed[member] then
      if op.together then
        remember_hash(op.graph[ref.n].m, member)
      end
      refer_later(later, op.graph[ref.n].m, ref, member, {key = false, part = op.null})
    end
  end
  for _, key in ipairs(doomed) do
    local node = op.graph[doomed[key]]
    if op.together then
      slot_of(node.m, '')
      remember_hash(node.m, key)
    end
    if not take_out(node, key) then
      gone[#gone + 1] = key
    end
  end
  settle_references(later, call)
  for _, key in ipairs(gone) do
    tell_deleted(call, op.graph[doomed[key]].m, key)
    redis.call('DEL', key)
    each_beside(op.graph[doomed[key]].m, key, 'DEL')
  end
end

-- Takes from a set what is no record any more: expired and not swept yet, or something foreign under its key.
local function clear_out(m, set, member)
  slot_of(m, '')
  sweep(m, member)
  redis.call('ZREM', set, member)
end

-- The first record of a set that isn't about to be removed anyway.
local function next_victim(m, set, stack, standing)
  for _, member in ipairs(run('ZRANGE', set, 0, #stack)) do
    if not standing[member] then
      local old, foreign = read_manifest(m, member)
      if not foreign and old.mark then
        return member
      end
      clear_out(m, set, member)
      return next_victim(m, set, stack, standing)
    end
  end
end

-- Deals with what refers to a record under one of its names: a record to remove first, or an outcome, if any; and how
-- many records were changed.
local function deal_with(call, op, node, name, stack, standing, most)
  local changed = 0
  for _, ref in ipairs(node.refs) do
    local set, other = ref.rel .. name, op.graph[ref.n]
    if ref.act == 'PROTECT' then
      local found = protectors(set, stack[#stack])
      if found then
        return nil, {'protected', stack[#stack], other.name, ref.f, found}, changed
      end
    elseif ref.act == 'SET_NULL' then
      for _, member in ipairs(run('ZRANGE', set, 0, most - changed - 1)) do
        if not refer(call, other.m, ref, member, {key = false, part = op.null}) then
          clear_out(other.m, set, member)
        end
        changed = changed + 1
      end
      if changed >= most then
        return nil, nil, changed
      end
    else
      local victim = next_victim(other.m, set, stack, standing)
      if victim then
        return {victim, ref.n}, nil, changed
      end
    end
  end
  return nil, nil, changed
end

-- A bounded part of it: what refers to a record goes before the record, so that each call leaves a truth, and a call
-- that never comes leaves a record that can be deleted again.
local function erase_part(call, op)
  local cursor = op.cursor or {keys = {op.key}, nodes = {1}}
  local stack, nodes, standing, left = cursor.keys, cursor.nodes, {}, MOST_REFERRERS
  for _, key in ipairs(stack) do
    standing[key] = true
  end
  while left > 0 do
    local key, node, victim = stack[#stack], op.graph[nodes[#nodes]], nil
    for _, name in ipairs(names_of(node, key)) do
      local outcome, changed
      victim, outcome, changed = deal_with(call, op, node, name, stack, standing, left)
      left = left - changed - 1
      if outcome then
        return outcome
      elseif victim or left <= 0 then
        break
      end
    end
    if victim then
      stack[#stack + 1], nodes[#nodes + 1], standing[victim[1]] = victim[1], victim[2], true
    elseif left > 0 then
      if take_out(node, key) then
        sweep(node.m, key)
      else
        tell_deleted(call, node.m, key)
        redis.call('DEL', key)
        each_beside(node.m, key, 'DEL')
      end
      undo = {}
      stack[#stack], nodes[#nodes], standing[key] = nil, nil, nil
      if #stack == 0 then
        return {'ok', 1}
      end
    end
  end
  return {'more', cmsgpack.pack({keys = stack, nodes = nodes})}
end

operations.erase = function(call, op, model)
  local old, foreign = read_manifest(model, op.key)
  if foreign then
    return foreign
  elseif not old.mark and not op.cursor then
    if old.companion then
      remove_record(model, op.key, old)
    end
    return {'ok', 0}
  end
  local refusal = unheard(op.graph)
  if refusal then
    return refusal
  elseif op.cursor then
    return erase_part(call, op)
  end
  local doomed, nulls = survey(op.graph, op.key)
  if doomed then
    erase_whole(call, op, doomed, nulls)
    return {'ok', 1}
  elseif nulls then
    return nulls
  end
  return op.together and {'large', MOST_REFERRERS} or erase_part(call, op)
end
