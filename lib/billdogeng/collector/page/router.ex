defmodule BilldogEng.Collector.Page.Router do
  @moduledoc false
  # The paths of the page. Every request passes the guard first.

  alias BilldogEng.Collector.Ingest
  alias BilldogEng.Collector.Page.{API, Assets, Guard, Headers, Stream}

  @security Headers.security()
  @linked Assets.linked()

  @doc "Returns the answer to a request, or `{:stream, options}` for one that stays open."
  @spec answer(map, BilldogEng.Collector.Page.t()) :: Ingest.answer() | {:stream, map}
  def answer(request, page) do
    with {:ok, path, query} <- Guard.check(request, page.hosts),
         {:ok, query} <- query(query),
         {status, headers, body} when is_integer(status) <- route(request.method, path, query, request, page) do
      {status, headers ++ @security, body}
    else
      {:stream, options} -> {:stream, options}
      {:error, status, message} -> refused(status, message)
    end
  end

  defp refused(status, message) do
    {status, headers, body} = Ingest.error(status, "HTTP_#{status}", message)
    {status, headers ++ @security, body}
  end

  defp query(text) do
    query = URI.decode_query(text)

    if Enum.all?(query, fn {key, value} -> String.valid?(key) and String.valid?(value) end),
      do: {:ok, query},
      else: {:error, 400, "the query is not UTF-8"}
  rescue
    ArgumentError -> {:error, 400, "the query is not percent-encoded"}
  end

  defp route("GET", "/", _query, _request, _page), do: asset("index.html")

  defp route("GET", "/" <> name, _query, _request, _page) when name in @linked, do: asset(name)

  defp route("GET", "/api/stream", query, request, _page) do
    resumed = Enum.find_value(request.headers, fn {name, value} -> if name == "last-event-id", do: value end)
    {:stream, Stream.options(query, resumed)}
  end

  defp route("GET", "/api/events", query, _request, page), do: API.events(query, page)

  defp route("GET", "/api/rows/" <> number, _query, _request, page) do
    case Integer.parse(number) do
      {number, ""} -> API.row(number, page)
      {number, "/curl"} -> API.curl(number, page)
      _ -> not_found("/api/rows/" <> number)
    end
  end

  defp route("POST", "/api/fault", _query, request, page), do: API.fault(request.body, page)
  defp route("POST", "/api/sample", _query, _request, page), do: API.sample(page)
  defp route("POST", "/api/clear", _query, _request, page), do: API.clear(page)
  defp route("GET", path, _query, _request, _page), do: not_found(path)
  defp route(_method, path, _query, _request, _page), do: {:error, 405, "#{path} does not take this method"}

  defp not_found(path), do: {:error, 404, "the page has no #{path}"}

  defp asset(name) do
    {type, content} = Assets.fetch(name)
    {200, [{"content-type", type}], content}
  end
end
