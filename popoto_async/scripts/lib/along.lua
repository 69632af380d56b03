-- purpose: candidates that come in the order asked for
-- defines: along
-- include: lib/commands.lua

-- Candidates come in strata: every record of one stands before all of the next, so a page that is full at the end of a
-- stratum is final. Within a stratum they come from sources, in any order.

-- A source is a part of a sorted set {z, lo, hi, desc} or {z, lex, desc}, a list of keys {list, within}, all that a
-- condition on texts brings {values, model}, or who refers to what other sources bring {through, sources}. Of its
-- members those count that pass all of its `tests` and none of its `excepts`, which earlier sources have brought already.
-- `size`, where it is known, is how many there are within `lo` and `hi`.

-- The sources of a stratum (from 1) of a walk, nil after the last one: an index, then its nulls; or a set whose members
-- stand in key order. The strata of other plans are in `sources.lua` and `rings.lua`.
local function along(query, plan, number)
  local by, term, source = query.orders[1], query.terms[plan.term], nil
  if by.by == 'key' and number == 1 then
    local set = term and term.z and term.z[1]
    source = {
      z = set or query.model.class, lex = term and term.p, in_order = true, size = set and term.size or nil,
      desc = by.desc, tests = {}, excepts = {},
    }
  elseif by.by == 'index' and number == 1 then
    source = {
      z = by.z, lo = term and term.lo, hi = term and term.hi, in_order = not plan.sorted, size = term and term.size,
      desc = by.desc, tests = term and term.x and {term} or {}, excepts = {},
    }
    if plan.sorted and query.after then
      source[by.desc and 'hi' or 'lo'], source.size = query.after.scores[1], nil
    end
  elseif by.nulls and not term and number == 2 then
    source = {z = by.nulls, in_order = #query.orders == 1, desc = by.desc, tests = {}, excepts = {}}
  else
    return nil
  end
  if #query.terms > (term and 1 or 0) then
    later.driver.add_tests(source, query.terms, term)
  end
  return {source}
end
