-- purpose: writes that can be taken back, because a script that fails half-way is not rolled back by the server
-- defines: undo, blamed, rollbacks, is_error, run, write, rollback
-- include: lib/commands.lua

-- The commands that would take back what this operation wrote, oldest first. A transaction keeps one log for all its
-- operations; every other operation starts an empty one.
local undo = {}

local function is_error(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

-- The key that a failing command was about; an error can't carry it.
local blamed = false

-- Runs a command on an index key; if it fails, that key is to blame.
local function run(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if is_error(reply) then
    blamed = key
    error(reply.err, 0)
  end
  return reply
end

-- Runs a command and remembers its inverse, given as a table of arguments.
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
    redis.pcall(unpack(undo[i]))
    undo[i] = nil
  end
end
