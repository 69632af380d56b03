-- purpose: where the records of a condition stand, and what else each of them has to pass
-- defines: driver
-- include: lib/estimate.lua
-- include: lib/geo.lua
-- include: lib/tree.lua

-- A source is a part of a sorted set {z, lo, hi, desc} or {z, lex, desc}, a list of keys {list, within}, all that a
-- condition on texts brings {values, model}, or who refers to what other sources bring {through, sources}. Of its
-- members those count that pass all of its `tests` and none of its `excepts`, which earlier sources have brought already.
local driver = {}

-- The next choice in `picks`. Choices are kept in the order in which they are made, so that a later call makes the same
-- ones though sizes have changed.
local function pick(picks, choose)
  picks.made = picks.made + 1
  picks.list[picks.made] = picks.list[picks.made] or choose()
  return picks.list[picks.made]
end

-- A source with what its members have to pass.
function driver.source(source)
  source.tests, source.excepts = source.tests or {}, {}
  return source
end

local function class_source(node, model)
  return {driver.source({z = model.class, tests = node.t ~= 'all' and {node} or {}})}
end

local function list_source(list, model)
  local known, keys = {}, {}
  for _, key in ipairs(list) do
    if not known[key] then
      known[key] = true
      keys[#keys + 1] = key
    end
  end
  return {driver.source({list = keys, within = model.class})}
end

-- The stretches of a geo index that can hold an area, and the few positions that no such index holds.
function driver.area(node)
  local sources = {driver.source({z = node.pole, tests = {node}})}
  for number, stretch in ipairs(geo.stretches(node)) do
    sources[number + 1] = driver.source({z = node.z, lo = stretch.lo, hi = stretch.hi, tests = {node}})
  end
  return sources
end

-- The sources that together bring the records of a node, each once, by node type.
local by_type = {
  all = class_source,
  stored = class_source,
  ['not'] = class_source,
  none = function() return {} end,
  keys = function(node, model) return list_source(node.k, model) end,
  claim = function(node, model) return list_source(tree.owners(node), model) end,
  near = driver.area,
  box = driver.area,
}

function by_type.any(node)
  local sources = {}
  for number, z in ipairs(node.z) do
    sources[number] = driver.source({z = z})
  end
  return sources
end

function by_type.text(node, model)
  return node.listing and {driver.source({values = node, model = model})} or class_source(node, model)
end

function by_type.keyed(node, model)
  return {driver.source({z = model.class, lex = node.p})}
end

function by_type.range(node)
  return {driver.source({z = node.z, lo = node.lo, hi = node.hi, tests = node.x and {node}})}
end

-- Who refers to the records that satisfy the inner condition, unless the class is cheaper to go through.
function by_type.via(node, model, picks)
  local through = pick(picks, function()
    return estimate.cost(node, model) < redis.call('ZCARD', model.class) * (1 + node.weight) and 1 or 0
  end)
  if through == 0 then
    return class_source(node, model)
  end
  return {driver.source({through = node, sources = driver.sources(node.n, node.m, picks)})}
end

by_type['and'] = function(node, model, picks)
  local chosen = node.n[pick(picks, function() return (estimate.cheapest(node, model)) end)]
  local sources = driver.sources(chosen or {t = 'all'}, model, picks)
  for _, source in ipairs(sources) do
    driver.add_tests(source, node.n, chosen)
  end
  return sources
end

-- Branch after branch, unless the class is smaller than all of them together.
by_type['or'] = function(node, model, picks)
  local branches = pick(picks, function()
    return estimate.size(node, model) < redis.call('ZCARD', model.class) and #node.n or 0
  end)
  if branches == 0 then
    return class_source(node, model)
  end
  local sources = {}
  for number, child in ipairs(node.n) do
    for _, source in ipairs(driver.sources(child, model, picks)) do
      for earlier = 1, number - 1 do
        table.insert(source.excepts, node.n[earlier])
      end
      sources[#sources + 1] = source
    end
  end
  return sources
end

function driver.sources(node, model, picks)
  node.drives = true
  return by_type[node.t](node, model, picks)
end

-- Adds conditions, all but one that the source satisfies by itself, before those it has: its own may read records.
function driver.add_tests(source, nodes, satisfied)
  local tests = {}
  for _, node in ipairs(nodes) do
    if node ~= satisfied then
      tests[#tests + 1] = node
    end
  end
  for _, node in ipairs(source.tests) do
    tests[#tests + 1] = node
  end
  source.tests = tests
end

-- The look-ups that a member of a source takes at most.
function driver.weight(source)
  local weight = 0
  for _, nodes in ipairs({source.tests, source.excepts}) do
    for _, node in ipairs(nodes) do
      weight = weight + node.weight
    end
  end
  return weight
end

-- The members of a source that count.
function driver.filter(source, members, view)
  for _, node in ipairs(source.tests) do
    members = tree.filter(node, members, view)
  end
  if #source.excepts > 0 then
    members = tree.filter({t = 'not', n = {t = 'or', n = source.excepts}}, members, view)
  end
  return members
end
