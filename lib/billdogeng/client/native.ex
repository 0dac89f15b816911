defmodule BilldogEng.Client.Native do
  @moduledoc false
  # The functions of the native library, one line each; they are documented in Rust. A client is identified by its
  # owner's pid; its lanes are `:event` and `:person_update`.

  @on_load :load

  def load do
    case load(:code.priv_dir(:billdogeng)) do
      :ok -> :ok
      {:error, {:reload, _}} -> :ok
      # An upgrade that fails leaves the running library and its clients in place.
      {:error, {:upgrade, reason}} -> {:error, to_string(reason)}
      # Load the module all the same: captures must stay harmless, and starts must return the cause.
      {:error, {_, reason}} -> :persistent_term.put({__MODULE__, :reason}, to_string(reason))
    end
  end

  defp load(priv) when is_list(priv) or is_binary(priv),
    do: :erlang.load_nif(:filename.join(priv, ~c"native/billdogeng_nif"), 0)

  defp load(_unknown) do
    {:error,
     {:load_failed, "the application has no priv directory: its ebin is not in a folder named billdogeng"}}
  end

  @doc false
  def load_error, do: :persistent_term.get({__MODULE__, :reason}, nil)

  @doc false
  def load_remedy do
    "build it anew with mix deps.compile billdogeng --force; in an escript there is no place for it: " <>
      "use a release, or mode: :disabled"
  end

  # ── captures ──
  # Without the library all clients are disabled: their captures do nothing.
  def capture(_owner, _lane, _id, _name, _properties, _groups, _timestamp, _marker), do: without_library(:ok)
  def capture_dirty(_owner, _lane, _id, _name, _properties, _groups, _timestamp, _marker), do: no_library()
  def drop(_owner, _lane, _reason), do: no_library()
  def disown(_owner, _lane), do: no_library()
  def is_first_failure(_owner, _kind), do: no_library()
  def now_ms, do: no_library()
  def hooks(_owner), do: no_library()
  def max_event_bytes(_owner), do: no_library()

  # ── the owner ──
  def start(_options, _hooks, _label), do: no_library()
  def command(_owner, _name, _id), do: no_library()
  def set_mode(_owner, _mode), do: no_library()
  def updates(_owner, _lane), do: no_library()
  def updates_dirty(_owner, _lane), do: no_library()
  def stats(_owner), do: without_library(:no_client)
  def debug(_owner), do: without_library(:no_client)
  def reported_drops(_owner, _lane, _reason, _count), do: no_library()

  # ── the reporter ──
  def report_to_me, do: no_library()
  def drain_all, do: no_library()
  def draining, do: no_library()

  # ── telemetry ──
  def report_flushes_to_me, do: no_library()
  def take_reports, do: no_library()

  # ── requests ──
  def check(_options), do: no_library()
  def redact(_text, _api_key), do: no_library()
  def has_roots, do: no_library()
  def named_roots, do: no_library()
  def request(_http, _path, _headers, _body, _marker, _id), do: no_library()

  # ── files ──
  def send_file(_options, _order), do: no_library()
  def send_file_feed(_run, _content), do: no_library()
  def send_file_progress(_run), do: no_library()

  # ── JSON ──
  def json_decode(_json), do: no_library()

  # Read at run time: Dialyzer would take a value that it can see for the only one that the NIF returns.
  defp without_library(value), do: :persistent_term.get({__MODULE__, :none}, value)

  defp no_library do
    :erlang.nif_error({:billdogeng_not_loaded, load_error()})
  end
end
