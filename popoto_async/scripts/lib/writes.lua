-- purpose: writes that can be taken back, because a script that fails half-way is not rolled back by the server
-- defines: undo, blamed, rollbacks, is_error, run, write, rollback
-- include: lib/commands.lua

-- The commands that would take back what this operation wrote, oldest first. A transaction keeps one log for all its
-- operations; every other operation starts an empty one.
local undo = {}

local function is_error(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

-- The key that the last command on an index was about; an error can't carry it.
local blamed = false

-- Runs a command on an index key; if it fails, that key is to blame.
local function run(command, key, ...)
  blamed = key
  return redis.call(command, key, ...)
end

-- Runs a command and remembers its inverse, given as a table of arguments, or as a function where there are several.
local function write(inverse, ...)
  local reply = run(...)
  undo[#undo + 1] = inverse
  return reply
end

-- How often something was taken back in this call.
local rollbacks = 0

local function rollback()
  rollbacks = rollbacks + 1
  for i = #undo, 1, -1 do
    local inverse = undo[i]
    if type(inverse) == 'function' then
      inverse()
    else
      redis.pcall(unpack(inverse))
    end
    undo[i] = nil
  end
end
