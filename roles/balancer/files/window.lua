-- Copyright (c) 2026, The dghs.bd_fhir developers
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

-- What clients are told in an announced window; haproxy.cfg decides when, and sets txn.wait.
core.register_service("window", "http", function(applet)
    -- An answer before the end of the body would break the connection of a client that still sends.
    while #applet:receive(65536) > 0 do end
    local wait = tostring(applet:get_var("txn.wait"))
    local body = '{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"transient","diagnostics":'
        .. '"The server is under maintenance. The request was not processed; send it again in ' .. wait .. ' seconds."}]}'
    applet:set_status(503, "Service Unavailable")
    applet:add_header("Content-Type", "application/fhir+json; charset=utf-8")
    applet:add_header("Content-Length", tostring(#body))
    applet:add_header("Retry-After", wait)
    applet:add_header("Cache-Control", "no-store")
    applet:start_response()
    if applet.method ~= "HEAD" then
        applet:send(body)
    end
end)
