defmodule BilldogEng.HttpTest do
  @moduledoc "Responses as servers, proxies and load balancers send them, by the letter of HTTP or not."

  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Line

  defp start_line(collector), do: start_supervised!({Line, collector: collector})

  @responses [
    {"in chunks, with an extension and a trailer",
     "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4;x=1\r\n{\"su\r\nc\r\nccess\":true}\r\n0\r\nx-t: 1\r\n\r\n"},
    {"after 100 Continue", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"},
    {"after 103 Early Hints",
     "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"},
    {"with 204", "HTTP/1.1 204 No Content\r\n\r\n"},
    {"without a reason", "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n"},
    {"with a header that is not UTF-8", "HTTP/1.1 200 OK\r\nx-a: caf\xE9\r\ncontent-length: 0\r\n\r\n"},
    {"with a header of 60 KB",
     "HTTP/1.1 200 OK\r\nx-a: #{String.duplicate("a", 60_000)}\r\ncontent-length: 0\r\n\r\n"},
    {"with 500 headers",
     "HTTP/1.1 200 OK\r\n#{String.duplicate("x-a: a\r\n", 500)}content-length: 0\r\n\r\n"},
    {"with a control character in a header", "HTTP/1.1 200 OK\r\nx-a: \x01\r\ncontent-length: 0\r\n\r\n"},
    {"with a header without a colon", "HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 0\r\n\r\n"},
    {"with a header of two lines", "HTTP/1.1 200 OK\r\nx-a: a\r\n b\r\ncontent-length: 0\r\n\r\n"},
    {"with a space before a colon", "HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n"}
  ]

  for {form, response} <- @responses do
    test "a response #{form} is a success, and the connection is kept" do
      collector = start_collector()
      line = start_line(collector)
      client = start_client(Line.url(line), max_retries: 0)
      Line.fault(line, fn socket, _answer -> :gen_tcp.send(socket, unquote(response)) && :go_on end)

      for name <- ["e1", "e2"] do
        Analytics.capture(client, "u", name)
        assert Analytics.flush(client) == :ok
      end

      assert names(collector) == ["e1", "e2"]
      assert Line.connections(line) == 1
    end
  end

  for status <- ["HTTP/1.0 200 OK", "HTTP/1.1 200 OK\r\nconnection: close"] do
    test "a body that ends with its connection (#{inspect(status)}) is read" do
      line = start_line(start_collector())
      client = start_client(Line.url(line), max_retries: 0)
      response = unquote(status) <> "\r\n\r\n{\"success\":false}"
      Line.fault(line, fn socket, _answer -> :gen_tcp.send(socket, response) && :close end)
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: 200, code: "MALFORMED_RESPONSE"}} = Analytics.flush(client)
    end
  end

  test "a byte order mark hides nothing of a response" do
    line = start_line(start_collector())
    client = start_client(Line.url(line), max_retries: 0)
    body = "\uFEFF{\"success\":false,\"error\":{\"code\":\"NO\",\"message\":\"no\"}}"
    response = "HTTP/1.1 401 X\r\ncontent-length: #{byte_size(body)}\r\n\r\n#{body}"
    Line.fault(line, fn socket, _answer -> :gen_tcp.send(socket, response) && :go_on end)
    Analytics.capture(client, "u", "e")
    assert {:error, %Error{status: 401, code: "NO", message: "no"}} = Analytics.flush(client)
  end

  # A load balancer's name has moved on, and its old servers still take what comes on open connections.
  for status <- [503, 429, 404, 401] do
    test "a connection on which #{status} was received is not used again" do
      collector = start_collector()
      line = start_line(collector)
      client = start_client(Line.url(line), max_retries: 0)
      test = self()

      Line.fault(line, fn socket, _answer ->
        send(test, {:old, socket})
        :gen_tcp.send(socket, "HTTP/1.1 #{unquote(status)} X\r\ncontent-length: 0\r\n\r\n") && :go_on
      end)

      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: unquote(status)}} = Analytics.flush(client)
      assert_received {:old, old}

      Line.fault(line, fn socket, answer ->
        status = if socket == old, do: "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", else: answer
        :gen_tcp.send(socket, status) && :go_on
      end)

      assert Analytics.flush(client) == :ok
      assert names(collector) == ["e", "e"]
    end
  end
end
