defmodule BilldogEng.Native do
  @moduledoc false
  # The functions of the native library, one line each; their documentation is beside their Rust.
  # A client is named by its owner's pid.

  @on_load :load

  def load do
    path = :filename.join(:code.priv_dir(:billdogeng), ~c"native/billdogeng_nif")

    case :erlang.load_nif(path, 0) do
      :ok -> :ok
      {:error, {:reload, _}} -> :ok
      # Over one that runs: that stays, and its clients with it, for a load that fails takes nothing away.
      {:error, {:upgrade, reason}} -> {:error, to_string(reason)}
      # Captures must stay harmless and starts must say why, so the module is loaded all the same.
      {:error, {_, reason}} -> :persistent_term.put({__MODULE__, :reason}, to_string(reason))
    end
  end

  @doc false
  def load_error, do: :persistent_term.get({__MODULE__, :reason}, nil)

  # ── captures: `:ok | :no_client | :dirty | :normalise | :hooks`, of a test's client `{:event, event}` ──
  def capture(_owner, _id, _name, _properties, _groups, _timestamp, _marker), do: no_library()
  def capture_dirty(_owner, _id, _name, _properties, _groups, _timestamp, _marker), do: no_library()
  def disown(_owner), do: no_library()
  def give_up_too_large(_owner), do: no_library()
  def give_up_before_send(_owner), do: no_library()
  def hooks(_owner), do: no_library()
  def max_event_bytes(_owner), do: no_library()

  # ── person updates: as captures, of a test's client `{:update, update}`; `:no_thread` ──
  def update_person(_owner, _update, _marker), do: no_library()
  def update_person_dirty(_owner, _update, _marker), do: no_library()
  def give_up_person_update(_owner), do: no_library()
  def person_tidings(_owner), do: no_library()
  def person_tidings_dirty(_owner), do: no_library()

  # ── the owner ──
  def start(_options, _hooks, _label), do: no_library()
  def command(_owner, _name, _id), do: no_library()
  def tidings(_owner), do: no_library()
  def tidings_dirty(_owner), do: no_library()
  def stats(_owner), do: no_library()

  # ── the reporter ──
  def report_to_me, do: no_library()
  def drain_all, do: no_library()
  def draining, do: no_library()

  # ── telemetry ──
  def report_flushes_to_me, do: no_library()
  def take_reports, do: no_library()

  # ── requests ──
  def has_roots, do: no_library()
  def request(_http, _path, _headers, _body, _marker, _id), do: no_library()

  # ── JSON ──
  def json_decode(_json), do: no_library()

  defp no_library do
    :erlang.nif_error({:billdogeng_not_loaded, load_error()})
  end
end
