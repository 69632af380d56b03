-- purpose: the outcome of most writes, which have nothing to tell
-- defines: DONE

local DONE = {'ok'}
