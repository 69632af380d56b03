-- purpose: the plan of a select, chosen by estimated cost, and its way through a cursor and back
-- defines: choice
-- include: lib/estimate.lua
-- include: lib/strata.lua
-- include: lib/view.lua

-- A plan is {kind, …}: where candidates come from and, once it is begun, how far it got. A cursor is a plan, packed.
-- `sorted` says that candidates don't come in order: the pages of several calls are to be merged by their marks.
local choice = {}

-- How much more a candidate costs that is sorted than one that is only walked.
local SORTED = 2

-- How many of `size` candidates it takes until the page is full, when all terms but one decide; and what they cost.
local function until_full(query, size, term)
  local share, weight = 1, 1
  for number, other in ipairs(query.terms) do
    if number ~= term then
      share, weight = share * estimate.share(other, query.model), weight + other.weight
    end
  end
  local candidates = math.min(size, query.want / share)
  return candidates, candidates * weight
end

local function has_ties(by, term)
  local lo, hi = term and term.lo or '-inf', term and term.hi or '+inf'
  return by.tie and redis.call('ZCOUNT', by.tie, lo, hi) > 0
end

-- The most halvings after which a disc still holds enough candidates.
local function ring_depth(query, term, enough)
  local least, most = 0, math.max(0, math.floor(math.log(ring(query, term, 0, true).r) / math.log(2)))
  while least < most do
    local middle = math.ceil((least + most) / 2)
    if estimate.size(ring(query, term, middle, true), query.model) >= enough then
      least = middle
    else
      most = middle - 1
    end
  end
  return least
end

-- The most halvings after which a disc still holds the place that the query goes on from.
local function place_depth(query, term)
  local by, text = query.orders[1], query.after and query.after.texts[1]
  local away = text and geo.distance(by.lat, by.lon, geo.position(text)) or 0
  return away > 0 and math.floor(math.log(ring(query, term, 0, true).r / away) / math.log(2)) or math.huge
end

-- Plans that bring records in the first order, by what that is; each is offered with an estimate of its cost.
local offers = {}

local function offer_walk(query, offer, plan, size)
  local candidates, cost = until_full(query, size, plan.term)
  offer(plan, cost, candidates)
end

function offers.key(query, offer)
  offer_walk(query, offer, {kind = 'walk', term = 0}, redis.call('ZCARD', query.model.class))
  for number, term in ipairs(query.terms) do
    if term.t == 'keyed' or (term.t == 'any' and #term.z == 1) then
      offer_walk(query, offer, {kind = 'walk', term = number}, estimate.size(term, query.model))
    end
  end
end

function offers.index(query, offer)
  local by, along, size = query.orders[1], 0, nil
  for number, term in ipairs(query.terms) do
    if term.t == 'range' and term.z == by.z then
      along, size = number, estimate.size(term, query.model)
    end
  end
  size = size or redis.call('ZCARD', by.z) + (by.nulls and redis.call('ZCARD', by.nulls) or 0)
  local sorted = #query.orders > 1 or has_ties(by, query.terms[along]) or false
  offer_walk(query, offer, {kind = 'walk', term = along, sorted = sorted}, size)
end

function offers.distance(query, offer)
  local by = query.orders[1]
  for number, term in ipairs(query.terms) do
    if (term.t == 'near' or term.t == 'box') and term.f == by.f then
      local size = estimate.size(term, query.model)
      local enough, cost = until_full(query, size, number)
      local depth = enough < size and ring_depth(query, term, 2 * enough) or 0
      depth = math.max(0, math.min(depth, place_depth(query, term)))
      offer({kind = 'rings', term = number, sorted = true, depth = depth}, 2 * SORTED * cost)
    end
  end
end

function offers.stored() end

-- A plan ready to be followed from its beginning.
local function begun(query, plan)
  plan.skip, plan.left, plan.found, plan.walked = query.offset, query.limit, 0, 0
  return plan
end

local function drive_plan(query)
  return {kind = 'drive', picks = {}, sorted = query.op.mode ~= 'count'}
end

-- The number and the node of the term whose candidates are cheapest to go through; 0 for the class.
local function cheapest(query)
  local where = query.where
  if where.t ~= 'and' then
    return 1, where
  end
  local number = estimate.cheapest(where, query.model)
  return number, where.n[number] or {t = 'all'}
end

-- What going through the candidates of the cheapest condition takes at most, in the units of a budget; nil where an
-- index doesn't say how many there are.
function choice.bound(query)
  if not estimate.is_certain(query.where) then
    return nil
  end
  local _, node = cheapest(query)
  local size, sources = estimate.size(node, query.model), estimate.sources(node)
  local open, show = COST.open + COST.probe * (query.where.weight + 1), COST.show * math.min(size, query.want)
  return sources * open + size * (query.look + query.sort) + show
end

-- Where going through all candidates is sure to fit into the call, another plan has what is left beside it: should
-- that not be enough, because conditions hold where they were not expected to, the call still ends with the answer. A walk
-- along the same candidates needs no such help.
local function set_apart(query, plan)
  local along = plan.kind == 'walk' and plan.term == cheapest(query)
  local bound = plan.kind ~= 'drive' and not along and plan.rival <= 2 * query.budget and choice.bound(query)
  if bound and bound <= query.budget then
    query.budget, query.spare = query.budget - bound, bound
  end
end

-- The plan that was sure to fit, with what was set apart for it.
function choice.instead(query)
  query.budget, query.spare = query.budget + query.spare, nil
  return begun(query, drive_plan(query))
end

function choice.plan(query)
  local best, rival = drive_plan(query), SORTED * estimate.cost(query.where, query.model)
  local least = rival
  query.expected = query.op.mode == 'count' and query.want or nil
  if query.op.mode ~= 'count' then
    offers[query.orders[1].by](query, function(plan, cost, candidates)
      if cost <= least then
        best, least, query.expected = plan, cost, candidates
      end
    end)
  end
  best.rival = rival
  set_apart(query, best)
  return begun(query, best)
end

-- A walk that has found nothing and has cost as much as all of another plan would is given up for that: nothing has
-- been shown yet that would have to be taken back.
local function reconsidered(query, plan)
  local nothing = plan.found == 0 and plan.skip == query.offset and plan.left == query.limit
  plan.walked = plan.walked + query.examined * (1 + query.where.weight)
  if plan.kind == 'walk' and nothing and plan.walked > plan.rival then
    return begun(query, drive_plan(query))
  end
  return plan
end

function choice.cursor(query, plan)
  plan = reconsidered(query, plan)
  plan.left = plan.left == math.huge and -1 or plan.left
  return cmsgpack.pack(plan)
end

function choice.resumed(cursor)
  cursor.left = cursor.left < 0 and math.huge or cursor.left
  return cursor
end
