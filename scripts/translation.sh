#!/usr/bin/env bash
# Runs the paper's Transformer experiment on a small model: English to German from scratch, weights
# pruned at 0 to 90 %, without targeted dropout and with the paper's rates. A second call continues.
#
#     bash scripts/translation.sh path/to/multi30k [options of run_translation.py]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo "$@"
data=${1:?the folder of Multi30k was expected; see --help}
shift
model=d_model=128,encoder_layers=3,decoder_layers=3,encoder_ffn_dim=512,decoder_ffn_dim=512
model+=,encoder_attention_heads=4,decoder_attention_heads=4,scale_embedding=true,dropout=0.1
model+=,init_std=0.0884 # scaled embeddings, shared with the output layer, then start at size 1

run() { # arguments: name of the output folder, options
    local folder=runs/translation/$1
    shift
    python scripts/run_translation.py --model_name_or_path new:marian --config_overrides "$model" \
        --dataset_name "$data" --vocabulary_size 6000 --level weight --importance magnitude \
        --sparsities 0 0.3 0.5 0.6 0.7 0.8 0.9 --num_train_epochs 6 \
        --per_device_train_batch_size 64 --learning_rate 2e-3 --warmup_steps 0.1 \
        --adam_beta2 0.98 --per_device_eval_batch_size 128 --generation_max_length 48 --output_dir "$folder" "$@"
}
# The paper's targeted dropout: both rates are constant, and there are no dense updates.
constant="--drop_rate 0.66 --drop_rate_schedule constant --targeting_schedule constant"
constant+=" --targeting_begin 0 --targeting_end 1 --targeting_sampled 0 --targeting_off 0"
constant+=" --untargeted_lr_scale 1"

run none --method none "$@"
run td-66-75 $constant --targeting 0.75 --dense_epochs 0 "$@"
run td-66-90 $constant --targeting 0.9 --dense_epochs 0 "$@"
python scripts/compare.py runs/translation/{none,td-66-75,td-66-90}/results.json \
    --labels none "TD .66/.75" "TD .66/.90" --metrics bleu token_accuracy \
    --title "English to German, single weights" --output docs/results/translation
