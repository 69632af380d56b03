-- purpose: which step of a transaction an outcome is about
-- defines: of_step

-- What has to be planned again keeps its status, by which everything behind it is held.
local function of_step(step, outcome)
  if outcome[1] == 'slots' or outcome[1] == 'moved' then
    return {outcome[1], outcome[2], step}
  end
  return {'failed', step, outcome}
end
