defmodule BilldogEng.LogExamples do
  @moduledoc """
  A notice for every line of `BilldogEng.Log.Lines`, and an error for every cause of `BilldogEng.Log.Diagnosis`, in the
  order in which guides/log-lines.md lists them.
  """

  alias BilldogEng.Client.Options.{Schema, Type}
  alias BilldogEng.Error
  alias BilldogEng.Log.{Diagnosis, Lines}

  @limits %{
    max_queue_size: 1_000,
    max_queue_bytes: 67_108_864,
    max_event_bytes: 1_048_576,
    spool_dir: nil,
    max_spool_bytes: 268_435_456,
    max_spool_age: 604_800_000
  }

  @spool %{@limits | spool_dir: "/data/spool"}

  @host "https://api.billdog.io/v1"
  @route %{host: @host, proxy: nil, variable: nil}
  @by_proxy %{@route | proxy: "http://proxy:3128"}

  @client MyApp.Analytics
  @event [:my_app, :checkout, :stop]
  @failure "raised KeyError in MyApp.Scrub.run/1 (lib/my_app/scrub.ex:12)"
  @cause "the ingest returned HTTP 503"
  @remedy "the ingest, or a proxy before it, fails: try again later"

  @doc "Returns `{notice, client}` for each row."
  def notices do
    flushes() ++ drops() ++ spool() ++ functions() ++ captures() ++ start() ++ debug()
  end

  defp flushes do
    kept = {20, {:max_queue_size, 1_000}}
    spooled = {1, {:max_spool_bytes, 268_435_456}}

    [
      {{:flushes_fail, :event, @host, {:first, 1}, @cause, kept, @remedy}, @client},
      {{:flushes_fail, :event, @host, {:still, 12}, @cause, spooled, @remedy}, @client},
      {{:flushes_fail, :person_update, @host, {:first, 2}, @cause, {1, :person_updates}, @remedy}, nil},
      {{:flushes_succeed, :event, @host, 12, 345}, @client},
      {{:suspended, :event, 15}, @client},
      {{:resumed, :event, 412}, @client},
      {{:panicked, :event}, @client}
    ]
  end

  defp drops do
    ended = %{captured: 90, delivered: 78, dropped: %{queue_full: 4, stopped: 8}}

    [
      dropped(120, :queue_full, Map.put(@limits, :limit, :max_queue_size)),
      dropped(120, :queue_full, Map.put(@spool, :limit, :max_queue_bytes)),
      dropped(120, :queue_full, @limits),
      dropped(120, :queue_full, %{@limits | max_queue_size: nil}),
      {{:dropped, :person_update, 1, :queue_full, @limits}, @client},
      dropped(1, :rejected, Map.put(@limits, :status, 400)),
      {{:dropped, :person_update, 1, :rejected, Map.put(@limits, :status, 422)}, @client},
      dropped(1, :too_large, @limits),
      dropped(120, :spool_full, @spool),
      dropped(120, :expired, @spool),
      dropped(120, :spool_lost, @spool),
      dropped(120, :before_send, @limits),
      dropped(1, :in_hook, @limits),
      dropped(1, :failed, @limits),
      {{:ended_with_drops, :event, 8, [:stopped], ended}, @client},
      {{:ended_with_drops, :event, 4, [:queue_full],
        %{captured: 90, delivered: 86, dropped: %{queue_full: 4}}}, @client},
      {{:ended_with_spool, 12}, @client},
      {{:too_large, :event, "order", "properties.items.17", 1_048_576}, @client},
      {{:replaced, :event, "order", "properties.user.pid"}, @client},
      {{:replaced, :person_update, "", "operations.0.value"}, @client}
    ]
  end

  defp dropped(count, reason, details), do: {{:dropped, :event, count, reason, details}, @client}

  defp spool do
    [
      {{:spool_unavailable, "/data/spool is held by another process"}, @client},
      {{:spool_dir_invalid, "~/spool", "could not find the user home"}, @client},
      {{:spool_opened, 12}, @client},
      {{:spool_adopted, 12}, @client},
      {{:spool_failed, "…"}, @client},
      {{:spool_resumed, "…"}, @client}
    ]
  end

  defp functions do
    causes = [:option, :channel, :view, :failed_request, :request, :process, :anonymous]

    [
      {{:hook_failed, :before_send, @failure}, @client},
      {{:hook_failed, :before_send, :wrong_event}, @client},
      {{:hook_failed, :global_properties, @failure}, @client},
      {{:hook_failed, :global_properties, :wrong_properties}, @client},
      {{:hook_failed, :global_properties, {:unloaded, MyApp.Scrub}}, @client},
      {{:context_failed, @failure}, nil},
      {{:logger_id_failed, @failure}, nil},
      {{:handler_failed, "checkout", @event, @failure}, nil}
      | for(cause <- causes, do: {{:no_distinct_id, "checkout", @event, MyAppWeb.CartLive, cause}, nil})
    ]
  end

  defp captures do
    [
      {{:no_client, MyApp.Analytics, :module}, nil},
      {{:no_client, :analytics, :tuple}, nil},
      {{:no_clients, 100}, nil},
      {{:client_found, MyApp.Analytics, 4}, nil},
      {{:message_too_large, 1_000_000}, nil},
      {:remote_timestamp, nil},
      {{:remote_person, :"shop@10.0.0.7"}, nil},
      {:identify_options, nil},
      {{:timestamp_invalid, "a string"}, nil},
      {:person_invalid, nil},
      {{:person_operation_unknown, ":increment"}, nil},
      {{:person_operation_invalid, :unset}, nil},
      {:person_without_id, nil},
      {:person_thread, nil}
    ]
  end

  defp start do
    [
      {:no_key, @client},
      {{:options_unknown, ":hots (did you mean :host?)"}, @client},
      {Type.effect(:flush_at, Schema.type(:flush_at), "50"), @client},
      {{:plain_http, "api.example"}, nil},
      {{:roots_unreadable, "SSL_CERT_FILE", "/etc/ca.pem", true}, nil},
      {{:roots_unreadable, "SSL_CERT_FILE", "/etc/ca.pem", false}, nil},
      {:no_roots, nil}
    ]
  end

  defp debug do
    [
      {{:flushed, :event, 20}, @client},
      {{:flush_failed, :event, 20, "HTTP 503"}, @client},
      {{:queue_full, :event, 120}, @client},
      {{:notices_left_out, 44}, @client}
    ]
  end

  @doc "Returns `{level, line}` for each row."
  def lines, do: for({notice, client} <- notices(), do: Lines.line(notice, client))

  @doc "Returns an error and the route of its request for each cause."
  def errors do
    direct = fn error -> {error, @route} end
    network = &Error.new(&1, 0, "NETWORK_ERROR")
    tls = &network.("invalid peer certificate: " <> &1)

    [
      direct.(Error.new("unknown API key", 401, "INVALID_KEY")),
      direct.(Error.new("HTTP 404", 404)),
      direct.(Error.new("HTTP 429", 429)),
      direct.(Error.new("events must be an array", 400, "INVALID_BODY")),
      direct.(Error.new("the response is an HTML page", 200, "MALFORMED_RESPONSE")),
      direct.(Error.new("HTTP 503", 503)),
      direct.(network.("failed to lookup address information: Name or service not known")),
      {network.("failed to lookup address information: Name or service not known"),
       %{@route | variable: "HTTPS_PROXY"}},
      direct.(network.("Connection refused (os error 111)")),
      direct.(network.("no response within request_timeout (10000 ms)")),
      direct.(tls.("UnknownIssuer")),
      direct.(tls.("Other(OtherError(CaUsedAsEndEntity))")),
      direct.(tls.("certificate not valid for name \"api.billdog.io\"")),
      direct.(tls.("certificate expired")),
      direct.(network.("received corrupt message of type InvalidContentType")),
      direct.(network.("peer is incompatible: no cipher suite in common")),
      {network.("Connection refused (os error 111)"), @by_proxy},
      {network.("tunnel error: unsuccessful"), @by_proxy},
      {Error.new("HTTP 407", 407), @by_proxy},
      {network.("proxy authorization required"), @by_proxy},
      direct.(
        Error.new("the value of the header \"x-api-key\" has a control character", 0, "INVALID_REQUEST")
      ),
      direct.(
        Error.new("the flush thread panicked and goes on; its events are still queued", 0, "INTERNAL_ERROR")
      )
    ]
  end

  @doc "Returns `{cause, remedy}` for each row."
  def causes, do: for({error, route} <- errors(), do: Diagnosis.of(error, route))
end
