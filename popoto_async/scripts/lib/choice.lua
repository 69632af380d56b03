-- purpose: the plan of a select, chosen by estimated cost
-- defines: choice
-- include: lib/estimate.lua

-- A plan is {kind, …}: where candidates come from and, once it is begun, how far it got. A cursor is a plan, packed.
-- `sorted` says that candidates don't come in order: the pages of several calls are to be merged by their marks.

-- How much more a candidate costs that is sorted than one that is only walked.
local choice = {SORTED = 2}

-- How many of `size` candidates it takes until the page is full, when all terms but one decide; and what they cost.
function choice.until_full(query, size, term)
  local share, weight = 1, 1
  for number, other in ipairs(query.terms) do
    if number ~= term then
      share, weight = share * later.together.share(other, query.model), weight + other.weight
    end
  end
  local candidates = math.min(size, query.want / share)
  return candidates, candidates * weight
end

-- Plans that bring records in the first order, by what that is; each is offered with an estimate of its cost. None does
-- for values that are only stored.
local offers = {}

local function offer_walk(query, offer, plan, size)
  local candidates, cost = choice.until_full(query, size, plan.term)
  offer(plan, cost, candidates)
end

function offers.key(query, offer)
  offer_walk(query, offer, {kind = 'walk', term = 0}, estimate.all(query.model))
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
  local term = query.terms[along] or {}
  local ties = by.tie and redis.call('ZCOUNT', by.tie, term.lo or '-inf', term.hi or '+inf') > 0
  local sorted = #query.orders > 1 or ties or false
  offer_walk(query, offer, {kind = 'walk', term = along, sorted = sorted}, size)
end

-- A plan ready to be followed from its beginning.
function choice.begun(query, plan)
  plan.skip, plan.left, plan.found, plan.walked = query.offset, query.limit, 0, 0
  return plan
end

function choice.drive(query)
  return {kind = 'drive', picks = {}, sorted = query.op.mode ~= 'count'}
end

function choice.plan(query)
  local best, rival = choice.drive(query), choice.SORTED * estimate.cost(query.where, query.model)
  local least, first = rival, query.orders[1].by
  query.expected = query.op.mode == 'count' and query.want or nil
  local offer = query.op.mode ~= 'count' and (offers[first] or first == 'distance' and later.rings.offer)
  if offer then
    offer(query, function(plan, cost, candidates)
      if cost <= least then
        best, least, query.expected = plan, cost, candidates
      end
    end)
  end
  best.rival = rival
  local where = query.where
  local cheapest = where.t == 'and' and later.together.cheapest(where, query.model) or 1
  if best.kind ~= 'drive' and rival <= 2 * query.budget and not (best.kind == 'walk' and best.term == cheapest) then
    later.apart.set(query)
  end
  return choice.begun(query, best)
end
