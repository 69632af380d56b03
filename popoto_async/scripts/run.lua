-- purpose: every operation, writing ones included
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in µs, outcomes | refused | unknown

local operations = {}
-- include: lib/main.lua
-- include: lib/slots.lua
-- include: lib/due.lua
-- operations: save push delete load fetch select+matching expire+sweep transaction group publish
-- operations: save_referred+rewrite+erase audit+members+tell+weigh+behind+mend+prune+mark

-- How long a lane's last outcomes are remembered: longer than any call is resent.
local LANE_TTL = 3600000

local reads = {load = true, select = true, fetch = true, audit = true, members = true, tell = true, weigh = true,
  behind = true}
local call = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
call.micros = time[1] * 1000000 + time[2]
call.now = math.floor(call.micros / 1000)

-- A sequence that was answered gets the same answers; an earlier one comes too late.
local stored = redis.call('GET', call.lane)
local answered
if stored then
  local last = tonumber(stored:match('^%d+'))
  if last > call.seq then
    return {'refused'}
  elseif last == call.seq then
    answered = cmsgpack.unpack(stored:sub(#tostring(stored:match('^%d+')) + 2))
  end
elseif call.resend then
  return {'unknown'}
end

-- A model is made ready once in a call: its slots compared, what is due of it swept.
local function refusal(model)
  if model.ready == nil then
    model.ready = true
    local done, reason = pcall(function()
      model.refusal = slots_differ(model)
      model.due = not model.refusal and has_due(model, call.now) and operations.sweep(call, {}, model)[3] == 1
    end)
    model.refusal = done and model.refusal or (not done and failure(reason))
  end
  return model.refusal
end

local function refused(op)
  local outcome = refusal(call.models[op.m])
  for i, step in ipairs(op.ops or {}) do
    local refused_step = refusal(call.models[step.m])
    outcome = outcome or (refused_step and {'failed', i, refused_step})
  end
  return outcome
end

local function outcome_of(op)
  local model = call.models[op.m]
  return refused(op) or (reads[op.op] and model.due and {'due'}) or run_operation(call, op, model)
end

local outcomes, remembered = {}, {}
for i, op in ipairs(call.ops) do
  if answered and answered[i] then
    outcomes[i] = answered[i]
  else
    local done, outcome = pcall(outcome_of, op)
    outcomes[i] = done and outcome or failure(outcome)
  end
  remembered[i] = not reads[op.op] and outcomes[i]
end
if not answered then
  local memory = string.format('%.0f ', call.seq) .. cmsgpack.pack(remembered)
  local kept = redis.pcall('SET', call.lane, memory, 'PX', LANE_TTL)
  if is_error(kept) and kept.err:find('READONLY', 1, true) then
    return kept  -- a replica: none of this was done, and another server may be the one to ask
  end
end
return {string.format('%.0f', call.micros), outcomes}
