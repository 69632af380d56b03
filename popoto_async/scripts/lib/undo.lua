-- purpose: what an operation wrote, because a script that fails half-way is not rolled back by the server
-- defines: undo, blamed, era, bare
-- include: lib/commands.lua

-- What would take back what this operation wrote, oldest first. A transaction keeps one log for all its operations; every
-- other operation starts an empty one.
local undo = {}

-- The key that the last command on an index was about; an error can't carry it.
local blamed = false

-- Another number whenever something that was written may not stand there any more: taken back, or listed no longer.
local era = 0

-- Which models, by the key of their class, have neither manifests outside of their records nor keys that have changed.
local bare = {}
