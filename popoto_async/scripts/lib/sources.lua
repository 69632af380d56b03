-- purpose: the sources that together bring the records of a condition
-- defines: sources
-- include: lib/estimate.lua

local sources = {}

-- The next choice in `picks`. Choices are kept in the order in which they are made, so that a later call makes the same
-- ones though sizes have changed.
local function pick(picks, choose)
  picks.made = picks.made + 1
  picks.list[picks.made] = picks.list[picks.made] or choose()
  return picks.list[picks.made]
end

local function class_source(node, model)
  return {later.driver.source({z = model.class, tests = node.t ~= 'all' and {node} or {}})}
end

local function list_source(list, model)
  local known, keys = {}, {}
  for _, key in ipairs(list) do
    if not known[key] then
      known[key] = true
      keys[#keys + 1] = key
    end
  end
  return {later.driver.source({list = keys, within = model.class})}
end

-- The stretches of a geo index that can hold an area, and the few positions that no such index holds.
function sources.area(node)
  local found = {later.driver.source({z = node.pole, tests = {node}})}
  for number, stretch in ipairs(later.geo.stretches(node)) do
    found[number + 1] = later.driver.source({z = node.z, lo = stretch.lo, hi = stretch.hi, tests = {node}})
  end
  return found
end

-- The sources that together bring the records of a node, each once, by node type.
local by_type = {
  all = class_source,
  stored = class_source,
  ['not'] = class_source,
  none = function() return {} end,
  keys = function(node, model) return list_source(node.k, model) end,
  claim = function(node, model) return list_source(later.owners_of(node), model) end,
  near = sources.area,
  box = sources.area,
}

function by_type.any(node)
  local found = {}
  for number, z in ipairs(node.z) do
    found[number] = later.driver.source({z = z})
  end
  return found
end

function by_type.points(node)
  local found = {}
  for number, score in ipairs(node.s) do
    found[number] = later.driver.source({z = node.z, lo = score, hi = score})
  end
  return found
end

-- A score can stand for other values, too.
function by_type.among(node, model, picks)
  local found = sources.of(node.n, model, picks)
  for _, source in ipairs(node.n.t == 'points' and found or {}) do
    source.tests = {node}
  end
  return found
end

function by_type.text(node, model)
  return node.listing and {later.driver.source({values = node, model = model})} or class_source(node, model)
end

function by_type.keyed(node, model)
  return {later.driver.source({z = model.class, lex = node.p})}
end

function by_type.range(node)
  return {later.driver.source({z = node.z, lo = node.lo, hi = node.hi, tests = node.x and {node}})}
end

-- Who refers to the records that satisfy the inner condition, unless the class is cheaper to go through.
function by_type.via(node, model, picks)
  local through = pick(picks, function()
    return estimate.cost(node, model) < estimate.all(model) * (1 + node.weight) and 1 or 0
  end)
  if through == 0 then
    return class_source(node, model)
  end
  return {later.driver.source({through = node, sources = sources.of(node.n, node.m, picks)})}
end

by_type['and'] = function(node, model, picks)
  local chosen = node.n[pick(picks, function() return (later.together.cheapest(node, model)) end)]
  local found = sources.of(chosen or {t = 'all'}, model, picks)
  for _, source in ipairs(found) do
    later.driver.add_tests(source, node.n, chosen)
  end
  return found
end

-- Branch after branch, unless the class is smaller than all of them together.
by_type['or'] = function(node, model, picks)
  local branches = pick(picks, function()
    return estimate.size(node, model) < estimate.all(model) and #node.n or 0
  end)
  if branches == 0 then
    return class_source(node, model)
  end
  local found = {}
  for number, child in ipairs(node.n) do
    for _, source in ipairs(sources.of(child, model, picks)) do
      for earlier = 1, number - 1 do
        table.insert(source.excepts, node.n[earlier])
      end
      found[#found + 1] = source
    end
  end
  return found
end

function sources.of(node, model, picks)
  node.drives = true
  return by_type[node.t](node, model, picks)
end

-- The stratum of a plan that goes through all that the condition brings: there is but one.
function sources.stratum(query, plan, number)
  if number > 1 then
    return nil
  end
  local by, found = query.orders[1], sources.of(query.where, query.model, {list = plan.picks, made = 0})
  if plan.sorted and by.by == 'key' then
    -- Sets without scores stand in the order asked for: of each only so much is wanted as can still come into the page.
    query.span = {from = query.after and query.after.key, to = plan.last}
    for _, source in ipairs(found) do
      if source.through or source.values or (source.z and not source.lo) then
        source.span, source.desc = query.span, by.desc
      end
    end
  end
  return found
end
