defmodule BilldogEng.Collector.Page.Curl do
  @moduledoc false
  # Writes a request as a shell command: pure functions.

  # Linux takes no longer argument than 128 KiB.
  @most_argument 100_000
  # Curl sets its own, and the body is shown decompressed.
  @own ~w(host content-length content-encoding transfer-encoding connection accept-encoding expect)
  @keys ~w(x-api-key x-billdog-api-key authorization cookie)

  @doc """
  Returns the command. It contains the request's key: without it the ingest refuses the request.

      iex> request = %{method: "POST", path: "/ingest-events", headers: [{"x-api-key", "it's"}], body: "{}"}
      iex> BilldogEng.Collector.Page.Curl.command(request, "http://127.0.0.1:4632")
      "curl -X POST 'http://127.0.0.1:4632/ingest-events' -H 'x-api-key: it'\\\\''s' --data-binary '{}'"
  """
  @spec command(map, String.t()) :: String.t()
  def command(request, url) do
    headers =
      for {name, value} <- request.headers, name not in @own, do: " -H " <> quoted("#{name}: #{value}")

    "curl -X #{quoted_word(request.method)} #{quoted(url <> request.path)}#{headers}#{body(request.body)}"
  end

  @doc "Returns a header's value without the secret of the sender."
  @spec shown(String.t(), String.t()) :: String.t()
  def shown(name, value) when name in @keys and byte_size(value) > 4,
    do: String.slice(value, 0, 3) <> "…"

  def shown(_name, value), do: BilldogEng.Collector.Feed.Text.cut(value, 500)

  defp body(""), do: ""
  # `@` would be read as the name of a file.
  defp body(body) when byte_size(body) <= @most_argument and binary_part(body, 0, 1) != "@",
    do: " --data-binary " <> quoted(body)

  defp body(body), do: " --data-binary @- <<'END_OF_BODY'\n#{body}\nEND_OF_BODY"

  defp quoted_word(word), do: if(word =~ ~r/\A\w+\z/, do: word, else: quoted(word))
  defp quoted(text), do: "'" <> String.replace(text, "'", "'\\''") <> "'"
end
