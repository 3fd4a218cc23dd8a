-- Health of the resources of harbor-pilot.dev for Argo CD, by their conditions, which follow kstatus.
local function health(status, message)
  return { status = status, message = message or "" }
end

-- A policy is active as soon as it is applied, and has no status.
if obj.kind == "ImagePolicy" then
  return health("Healthy")
end

local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waiting for harbor-pilot to see the spec")
end

local ready
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    return health("Degraded", condition.message)
  end
  if condition.type == "Ready" then
    ready = condition
  end
end
if ready == nil then
  return health("Progressing", "waiting for harbor-pilot")
end
if ready.status == "True" then
  return health("Healthy", ready.message)
end
if ready.reason == "Suspended" then
  return health("Suspended", ready.message)
end
return health("Progressing", ready.message)
