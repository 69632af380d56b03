-- purpose: the part of a budget that is set apart for going through all candidates, where that is sure to fit
-- defines: apart
-- include: lib/choice.lua
-- include: lib/estimate.lua
-- include: lib/view.lua

-- Should another plan not fill the page with the rest, because conditions hold where they were not expected to, the call
-- still ends with the answer.
local apart = {}

-- Whether sizes are those of indexes, no guesses, and nothing but indexes has to be gone through to know them.
local function is_certain(node)
  if node.t == 'via' or node.t == 'text' then
    return false
  elseif node.t == 'not' or node.t == 'among' then
    return is_certain(node.n)
  end
  for _, part in ipairs((node.t == 'and' or node.t == 'or') and node.n or {}) do
    if not is_certain(part) then
      return false
    end
  end
  return true
end

-- How many stretches of sorted sets hold the candidates of a node whose size is certain, at most.
local function stretches_of(node)
  if node.t == 'near' or node.t == 'box' then
    return 1 + #later.geo.stretches(node)
  elseif node.t == 'among' then
    return stretches_of(node.n)
  elseif node.t == 'points' then
    return #node.s
  elseif node.t == 'and' or node.t == 'or' then
    return 1 + later.sum(node.n, stretches_of)
  end
  return node.t == 'any' and #node.z or 1
end

-- The number and the node of the term whose candidates are cheapest to go through; 0 for the class.
local function cheapest(query)
  local where = query.where
  if where.t ~= 'and' then
    return 1, where
  end
  local number = later.together.cheapest(where, query.model)
  return number, where.n[number] or {t = 'all'}
end

-- What going through the candidates of the cheapest condition takes at most, in the units of a budget; nil where an
-- index doesn't say how many there are.
function apart.bound(query)
  if not is_certain(query.where) then
    return nil
  end
  local _, node = cheapest(query)
  local size, sources = estimate.size(node, query.model), stretches_of(node)
  local open, show = COST.open + COST.probe * (query.where.weight + 1), COST.show * math.min(size, query.want)
  return sources * open + size * (query.look + query.sort) + show
end

function apart.set(query)
  local bound = apart.bound(query)
  if bound and bound <= query.budget then
    query.budget, query.spare = query.budget - bound, bound
  end
end

-- The plan that was sure to fit, with what was set apart for it.
function apart.instead(query)
  query.budget, query.spare = query.budget + query.spare, nil
  return choice.begun(query, choice.drive(query))
end
