-- purpose: writes that can be taken back, because a script that fails half-way is not rolled back by the server
-- defines: undo, blamed, era, absent, run, write
-- include: lib/commands.lua

-- What would take back what this operation wrote, oldest first. A transaction keeps one log for all its operations; every
-- other operation starts an empty one.
local undo = {}

-- The key that the last command on an index was about; an error can't carry it.
local blamed = false

-- Another number whenever something that was written may not stand there any more: taken back, or listed no longer.
local era = 0

-- Keys of models that most models don't have, by whether this call has seen that they don't, and nothing was written there.
local absent = {}

-- Runs a command on an index key; if it fails, that key is to blame.
local function run(command, key, ...)
  blamed = key
  return redis.call(command, key, ...)
end

-- Runs a command and remembers its inverse, given as a table of arguments, or as a function where there are several.
local function write(inverse, command, key, ...)
  local reply = run(command, key, ...)
  undo[#undo + 1] = inverse
  absent[key] = nil
  return reply
end
