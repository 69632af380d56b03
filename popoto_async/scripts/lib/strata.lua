-- purpose: where the candidates of a plan come from
-- defines: strata, ring
-- include: lib/driver.lua
-- include: lib/geo.lua

-- Candidates come in strata: every record of one stands before all of the next, so a page that is full at the end of a
-- stratum is final. Within a stratum they come from sources, in any order.

-- The sources of a stratum (from 1), by kind of plan; nil after the last one.
local strata = {}

function strata.drive(query, plan, number)
  if number > 1 then
    return nil
  end
  local by, sources = query.orders[1], driver.sources(query.where, query.model, {list = plan.picks, made = 0})
  if plan.sorted and by.by == 'key' then
    -- Sets without scores stand in the order asked for: of each only so much is wanted as can still come into the page.
    query.span = {from = query.after and query.after.key, to = plan.last}
    for _, source in ipairs(sources) do
      if source.through or source.values or (source.z and not source.lo) then
        source.span, source.desc = query.span, by.desc
      end
    end
  end
  return sources
end

-- Along an order: an index, then its nulls; or a set whose members stand in key order.
function strata.walk(query, plan, number)
  local by, term, source = query.orders[1], query.terms[plan.term], nil
  if by.by == 'key' and number == 1 then
    source = {z = term and term.z and term.z[1] or query.model.class, lex = term and term.p, in_order = true}
  elseif by.by == 'index' and number == 1 then
    source = {z = by.z, lo = term and term.lo, hi = term and term.hi, in_order = not plan.sorted}
    source.tests = term and term.x and {term}
    if plan.sorted and query.after then
      source[by.desc and 'hi' or 'lo'] = query.after.scores[1]
    end
  elseif by.nulls and not term and number == 2 then
    source = {z = by.nulls, in_order = #query.orders == 1}
  else
    return nil
  end
  source.desc = by.desc
  driver.source(source)
  driver.add_tests(source, query.terms, term)
  return {source}
end

-- Where a plan begins: a walk in order after the place that its query goes on from, one to be sorted at its score, and
-- beyond all values after a null.
function strata.start(query, plan)
  local after, by, at = query.after, query.orders[1], {stratum = 1, source = 1}
  if not after or plan.kind ~= 'walk' then
    return at
  end
  local score = by.by == 'index' and after.scores[1]
  if by.by == 'index' and not score then
    at.stratum = 2
  end
  if not plan.sorted or (at.stratum == 2 and #query.orders == 1) then
    at.member, at.score = after.key, score or '0'
  end
  return at
end

-- The ring of a disc around the centre of the order that is `depth` halvings smaller than the whole area.
local function ring(query, term, depth, innermost)
  local by = query.orders[1]
  local outer = (geo.reach(term, by.lat, by.lon) + 1) / 2 ^ depth
  return {
    t = 'near', z = term.z, pole = term.pole, f = term.f, lat = by.lat, lon = by.lon,
    r = outer, beyond = innermost and -1 or outer / 2, weight = 1,
  }
end

-- Rings around a point, the innermost first.
function strata.rings(query, plan, number)
  local depth = plan.depth - number + 1
  if depth < 0 then
    return nil
  end
  local sources = driver.area(ring(query, query.terms[plan.term], depth, number == 1))
  for _, source in ipairs(sources) do
    driver.add_tests(source, query.terms)
  end
  return sources
end
