-- purpose: writes that can be taken back, because a script that fails half-way is not rolled back by the server
-- defines: undo, blamed, listed_values, run, write
-- include: lib/commands.lua

-- What would take back what this operation wrote, oldest first. A transaction keeps one log for all its operations; every
-- other operation starts an empty one.
local undo = {}

-- The key that the last command on an index was about; an error can't carry it.
local blamed = false

-- The values that this call has seen listed, until something is taken back: by the lists of their index.
local listed_values = {}

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
