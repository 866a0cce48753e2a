-- What a plugin refuses becomes a problem (exit-transformer).
-- PAGES, PARAMETER_TOO_LARGE, CLOSE and RETRY_AFTER are written above by `mayfly gateway render`.
local code, body, headers = ...
if not code or code < 400 then
  return code, body, headers
end
if not PAGES[code] then
  code = code < 500 and 400 or 500
end
local page = PAGES[code]
if code == 413 and ngx.re.find(ngx.var.uri, [[\A/v1/functions/[^/]+/activations\z]], "jo") then
  page = PARAMETER_TOO_LARGE
end
headers = headers or {}
headers["Content-Type"] = "application/problem+json"
headers["Cache-Control"] = "no-store"
headers["Retry-After"] = RETRY_AFTER[code]
if code == 401 then
  local given = ngx.var.http_authorization
  local invalid = given and given ~= "" and ', error="invalid_token"' or ""
  headers["WWW-Authenticate"] = 'Bearer realm="mayfly"' .. invalid
end
return code, page .. (ngx.var.apisix_request_id or "") .. CLOSE, headers
