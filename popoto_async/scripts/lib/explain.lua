-- purpose: a select that also reports what it did: its plan, what each condition let through, the commands it ran
-- defines: explain
-- include: lib/commands.lua
-- include: lib/estimate.lua

-- Counts the commands of a function by name. `redis` is a local of the script, so all fragments run the counting one.
local function counting(work)
  local plain, counted = redis, {}
  local function counter(run_command)
    return function(name, ...)
      counted[name] = (counted[name] or 0) + 1
      return run_command(name, ...)
    end
  end
  redis = {call = counter(plain.call), pcall = counter(plain.pcall)}
  local done, reply, query = pcall(work)
  redis = plain
  if not done then
    error(reply, 0)
  end
  return reply, query, counted
end

-- The conditions of a tree from its top, with what was estimated of each and what it was asked. A list with depths,
-- because cmsgpack packs no more than 16 levels.
local function list_conditions(node, model, depth, driven, found)
  local drives = driven and node.drives or false
  found[#found + 1] = {
    t = node.t, label = node.label or '', drives = drives, estimate = estimate.size(node, model),
    asked = node.asked or 0, passed = node.passed or 0, depth = depth,
  }
  local via, parts = node.t == 'via', type(node.n) == 'table' and node.t ~= 'among' and node.n or {}
  for _, part in ipairs(parts.t and {parts} or parts) do
    list_conditions(part, via and node.m or model, depth + 1, driven and (drives or not via), found)
  end
  return found
end

local function explain(op, model, answer)
  local reply, query, commands = counting(function() return answer(op, model) end)
  if not query then
    return reply
  end
  local plan, along = query.plan or {kind = 'index'}, query.terms[query.plan and query.plan.term or 0]
  local report = {
    kind = plan.kind, along = along and along.label or '', sorted = plan.sorted or false,
    steps = list_conditions(query.where, model, 0, true, {}), commands = commands, size = estimate.all(model),
    bound = later.apart.bound(query) or false, spent = query.view.spent, budget = query.budget + (query.spare or 0),
  }
  return {reply[1], reply, cmsgpack.pack(report)}
end
