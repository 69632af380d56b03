-- purpose: the nearest first: candidates in rings around a point
-- defines: rings
-- include: lib/choice.lua
-- include: lib/estimate.lua

local rings = {}

-- The ring of a disc around the centre of the order that is `depth` halvings smaller than the whole area.
local function ring(query, term, depth, innermost)
  local by = query.orders[1]
  local outer = (later.geo.reach(term, by.lat, by.lon) + 1) / 2 ^ depth
  return {
    t = 'near', z = term.z, pole = term.pole, f = term.f, lat = by.lat, lon = by.lon,
    r = outer, beyond = innermost and -1 or outer / 2, weight = 1,
  }
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
  local away = text and later.geo.distance(by.lat, by.lon, later.geo.position(text)) or 0
  return away > 0 and math.floor(math.log(ring(query, term, 0, true).r / away) / math.log(2)) or math.huge
end

-- Offers the rings around the centre of the order, if the area of a condition bounds them.
function rings.offer(query, offer)
  local by = query.orders[1]
  for number, term in ipairs(query.terms) do
    if (term.t == 'near' or term.t == 'box') and term.f == by.f then
      local size = estimate.size(term, query.model)
      local enough, cost = choice.until_full(query, size, number)
      local depth = enough < size and ring_depth(query, term, 2 * enough) or 0
      depth = math.max(0, math.min(depth, place_depth(query, term)))
      offer({kind = 'rings', term = number, sorted = true, depth = depth}, 2 * choice.SORTED * cost)
    end
  end
end

-- Rings around a point, the innermost first.
function rings.stratum(query, plan, number)
  local depth = plan.depth - number + 1
  if depth < 0 then
    return nil
  end
  local sources = later.sources.area(ring(query, query.terms[plan.term], depth, number == 1))
  for _, source in ipairs(sources) do
    later.driver.add_tests(source, query.terms)
  end
  return sources
end
